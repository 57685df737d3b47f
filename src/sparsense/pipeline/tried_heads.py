"""Heads are attached once to the untrained network: what cannot be is known before hours of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sparsense.detector import try_head
from sparsense.graph import forward_graph, load_graph
from sparsense.heads import HEADS
from sparsense.networks.network import Network
from sparsense.pipeline.data import RunData
from sparsense.recipe.schema import Recipe
from sparsense.recipe.training import TrainingSection
from sparsense.to_onnx import export_forward
from sparsense.training.objectives import Context, make_objective

FEW = 16
"""Samples that are shown to a head; what it makes of them is thrown away."""
LOOSE = 1e-2
"""How well the export must agree: it is that of other weights than those which count."""


def check_heads(recipe: Recipe, data: RunData, network: Network) -> None:
    """Try every head of a recipe on the dense network, and on what is remembered once it is pruned.

    Raises:
        GraphError: A head finds no layer, or one that it cannot differentiate, or no reference for a layer.
        InputError: Samples that the network's preprocessing is not for.
        ExportError: The network cannot be exported.
    """
    few, see = data.train.subset(FEW, seed=recipe.seed), network.preprocessing
    model = load_graph(export_forward(network, opset=recipe.export.opset, tolerance=LOOSE))
    graph = forward_graph(model, see, task=network.task)
    for remembered in _remembered(recipe, network):
        graph.remembered = {name: tensor.numpy() for name, tensor in remembered.items()}
        for section in recipe.heads:
            try_head(graph, HEADS[section.name](**section.options), few, preprocessing=see)


def _remembered(recipe: Recipe, network: Network) -> Iterator[Mapping[str, Tensor]]:
    """What the dense network will have been left by its training, and what the pruned one by its fine-tuning."""
    yield network.remembered if recipe.train is None else _left_by(recipe.train, network)
    if recipe.prune is not None and recipe.finetune is not None:
        yield _left_by(recipe.finetune, network)


def _left_by(section: TrainingSection, network: Network) -> dict[str, Tensor]:
    if section.objective is None:
        return {}
    stand_ins = Context(network.module, network.preprocessing, torch.zeros(1, *network.input_shape))
    objective = make_objective(section.objective.name, section.objective.options, stand_ins)
    found: dict[str, Tensor] = objective.remembers(network.module) if hasattr(objective, "remembers") else {}
    return found
