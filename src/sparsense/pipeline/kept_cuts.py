"""A network on its way, written into a folder and read from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sparsense.networks import load_checkpoint, save_network
from sparsense.networks.network import Network
from sparsense.pipeline.cuts import Cut
from sparsense.pruning.mask import Mask


@dataclass(frozen=True)
class Journey:
    """Where the steps have led.

    Args:
        now: The network as it is now.
        origin: The weights that it was loaded with, without what went since; None when nothing goes back to them.
    """

    now: Cut
    origin: Network | None = None


def save_journey(journey: Journey, folder: Path) -> None:
    """Write it; the folder is there."""
    now = journey.now
    save_network(now.network, folder / "now.safetensors")
    if journey.origin is not None:
        save_network(journey.origin, folder / "origin.safetensors")
    masks = {name: keep.to(torch.uint8) for name, keep in now.mask.keep.items()}
    save_file(masks, folder / "mask.safetensors")
    facts = {"reached": now.reached, "proof": now.proof, "left_alone": now.left_alone}
    (folder / "facts.json").write_text(json.dumps(facts))


def load_journey(folder: Path, like: Network) -> Journey:
    """Read it; `like` says where the class comes from."""
    keep = {name: mask.bool() for name, mask in load_file(folder / "mask.safetensors").items()}
    facts = json.loads((folder / "facts.json").read_text())
    facts["left_alone"] = tuple(facts["left_alone"])
    origin = folder / "origin.safetensors"
    return Journey(
        Cut(load_checkpoint(folder / "now.safetensors", source=like.source), Mask(keep), {}, **facts),
        load_checkpoint(origin, source=like.source) if origin.is_file() else None,
    )
