"""Oracles of the heads of autoencoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsense.autodiff import weighted_layers
from sparsense.detector import Scored
from sparsense.detector.double import behind_preprocessing
from sparsense.oracles.oracle import ORACLES
from sparsense.oracles.sensitivity import arrange, arrangements, gaussian, match_layers


@ORACLES.register("reconstruction_error")
@torch.no_grad()
def reconstruction_error(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """The four metrics, in torch."""
    head: Any = scored.head
    return _error(head.metric, inputs, module(inputs), head.window, head.value_range).numpy()


def _error(metric: str, x: Tensor, y: Tensor, window: int, value_range: float = 1.0) -> Tensor:
    if metric == "ssim":
        return _ssim_error(x, y, window, value_range)
    if metric == "ms_gms":
        return _ms_gms_error(x, y)
    if metric == "norm":
        return (x - y).square().flatten(1).sum(1).sqrt()
    each = (x - y).abs() if metric == "l1" else (x - y) ** 2
    return each.flatten(1).mean(1)


def _ssim_error(x: Tensor, y: Tensor, window: int, value_range: float) -> Tensor:
    """Window by window."""
    wx, wy = (image.unfold(2, window, 1).unfold(3, window, 1).flatten(4) for image in (x, y))
    mx, my = wx.mean(4), wy.mean(4)
    vx, vy = wx.var(4, unbiased=False), wy.var(4, unbiased=False)
    covariance = ((wx - mx[..., None]) * (wy - my[..., None])).mean(4)
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    ssim = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return ((1 - ssim) / 2).flatten(1).mean(1)


def _ms_gms_error(x: Tensor, y: Tensor) -> Tensor:
    """Differences of sums over three rows and columns, scale by scale."""
    x, y = x.mean(1), y.mean(1)
    total = torch.zeros(len(x), dtype=x.dtype)
    for scale in range(3):
        if scale:
            x, y = (image.unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4)) for image in (x, y))
        gx, gy = _magnitude(x), _magnitude(y)
        total += (1 - (2 * gx * gy + 0.0026) / (gx**2 + gy**2 + 0.0026)).flatten(1).mean(1)
    return total / 3


def _magnitude(image: Tensor) -> Tensor:
    windows = image.unfold(1, 3, 1).unfold(2, 3, 1)
    across = (windows[..., 2] - windows[..., 0]).sum(-1) / 3
    down = (windows[..., 2, :] - windows[..., 0, :]).sum(-1) / 3
    return torch.hypot(across, down)


@ORACLES.register("latent_norm")
@torch.no_grad()
def latent_norm(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Error and norm; the code has no name in torch, so it is computed in float64 from the graph."""
    head: Any = scored.head
    (latent,) = behind_preprocessing(scored.network, [head._code])(inputs.numpy())
    error = _error(head.error, inputs, module(inputs), head.window).numpy()
    return error + head.beta * np.linalg.norm(latent.reshape(len(latent), -1), axis=1)


@ORACLES.register("gradcon")
def gradcon(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """One backward pass per sample."""
    head: Any = scored.head
    layers = head._chosen(scored.network)
    modules = match_layers(module, layers, inputs[:1])
    order, state, scores = arrangements(scored.network, layers), head.state(), []
    for sample in inputs:
        loss = ((module(sample[None]) - sample[None]) ** 2).mean()
        found = torch.autograd.grad(loss, [m.weight for m in modules])
        cosines = []
        for layer, owner, gradient, places in zip(layers, modules, found, order, strict=True):
            own = arrange(layer, owner, gradient, "weight").ravel()[places]
            cosines.append((own * state[f"reference.{layer.name}"]).sum() / np.linalg.norm(own))
        scores.append(loss.item() - head.beta * np.mean(cosines))
    return np.array(scores)


@ORACLES.register("reconstruction_profile")
def reconstruction_profile(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """One backward pass per sample, and numpy's norms."""
    head: Any = scored.head
    layers = weighted_layers(scored.network, layers=head.layers)
    modules, profiles = match_layers(module, layers, inputs[:1]), []
    for sample in inputs:
        loss = ((module(sample[None]) - sample[None]) ** 2).mean()
        found = torch.autograd.grad(loss.log(), [m.weight for m in modules])
        rows = [
            arrange(layer, owner, (owner.weight * gradient).detach(), head.structure).ravel()
            for layer, owner, gradient in zip(layers, modules, found, strict=True)
        ]
        norms = [float(np.linalg.norm(row, p)) for row in rows for p in head.p]
        profiles.append(np.log(np.maximum([loss.item(), *norms], 1e-30)))
    return gaussian(scored, module, inputs, np.array(profiles))
