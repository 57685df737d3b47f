"""A network without a share of its multiply-adds: channels of least magnitude, then distillation from the dense one."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from pruning_finetuned import fine_tune

from sparsense.data import Dataset
from sparsense.networks import Network, load_checkpoint, save_network
from sparsense.networks.network import example_input
from sparsense.pruning.batchnorm import reestimate_batch_norm
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.plan import ChannelOptions
from sparsense.recording.passes import saliency_of

TRAINING = {"learning_rate": 0.01, "precision": "bf16", "mix": 0.0}


def smaller(
    dense: Network, removed: float, train: Dataset, *, epochs: int, round_to: int = 1, file: Path | None = None
) -> Network:
    """Kept in the file, if one is named, and read from there the next time.

    Args:
        dense: Where it starts; not changed.
        removed: Share of the multiply-adds.
        train: To measure batch norms and fine-tune on.
        epochs: Of the fine-tuning; 0 leaves it out.
        round_to: Widths are multiples of it, as the runtime likes them.
        file: `.safetensors`.
    """
    if file and file.exists():
        return load_checkpoint(file)
    options = ChannelOptions(measure="multiply_adds", round_to=round_to)
    example, saliency = example_input(dense.input_shape), saliency_of(dense.module, "magnitude")
    module = prune_channels(dense.module, example, saliency, sparsity=removed, options=options).module
    images = torch.from_numpy(dense.preprocessing.apply(train.subset(1000).inputs))
    reestimate_batch_norm(module, images.split(200))
    found = replace(dense, module=module)
    if epochs:
        fine_tune(dense, found, train, "distillation", 0, argparse.Namespace(**TRAINING, epochs=epochs))
    module.eval()
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_network(found, file)
    return found
