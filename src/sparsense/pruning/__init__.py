"""Pruning: saliency in, masked or smaller networks out."""
