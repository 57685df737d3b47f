"""Detectors over many files, larger than memory: cut into pieces, read row by row, written whole or not at all."""
