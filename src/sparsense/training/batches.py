"""Inputs and labels as tensors, shuffled and augmented anew in every epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sparsense.data import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import InputError
from sparsense.registry import Registry

Augmentation = Callable[[Tensor, torch.Generator | None], Tensor]
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")
"""Name -> `(inputs [N, C, H, W], generator) -> inputs`, drawn anew for every sample; None: torch's own generator."""


class Augmented:
    """Inputs that are augmented anew whenever some of them are taken, by torch's own random numbers.

    Outliers need what samples get: else a network tells them apart by the traces of the augmentation.

    Args:
        inputs: As the network sees them, `[N, C, H, W]`.
        augment: Names of augmentations, applied in this order.

    Example:
        >>> Augmented(torch.rand(5, 1, 8, 8), ["shift"])[torch.tensor([0, 3])].shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, inputs: Tensor, augment: Sequence[str]) -> None:
        _check_augmentable(inputs, augment)
        self.inputs, self._augmentations = inputs, [AUGMENTATIONS[name] for name in augment]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        found = self.inputs[chosen]
        for augmentation in self._augmentations:
            found = augmentation(found, None)
        return found


class Batches:
    """Batches of inputs and labels; every pass over it is one epoch, in a new order.

    Batches differ by at most one sample in size, so that none is small: of batches of three or more none has one.

    Args:
        inputs: As the network sees them, `[N, ...]`.
        labels: `[N]`.
        batch_size: Of the largest batch.
        augment: Names of augmentations, applied in this order.
        seed: Of order and augmentation: the same seed gives the same epochs.

    The attribute `generator` holds where the order and the augmentations are.
    """

    def __init__(
        self, inputs: Tensor, labels: Tensor, *, batch_size: int, augment: Sequence[str] = (), seed: int = 0
    ) -> None:
        if len(inputs) != len(labels) or not len(inputs):
            raise InputError(f"training needs one label per input; found {len(inputs)} inputs, {len(labels)} labels")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1; found {batch_size}")
        _check_augmentable(inputs, augment)
        self.inputs, self.labels = inputs, labels
        self._count = math.ceil(len(inputs) / batch_size)
        self._augmentations = [AUGMENTATIONS[name] for name in augment]
        self.generator = torch.Generator().manual_seed(seed)

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        augment: Sequence[str] = (),
        seed: int = 0,
    ) -> Batches:
        """The samples of a labelled data set, preprocessed once.

        Raises:
            InputError: The data set has no labels.
        """
        if dataset.labels is None:
            raise InputError(f"training on {dataset.name!r}: it has no labels")
        inputs = torch.from_numpy(preprocessing.apply(preprocessing.arrange(dataset.inputs)))
        return cls(inputs, torch.from_numpy(dataset.labels), batch_size=batch_size, augment=augment, seed=seed)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.inputs), generator=self.generator)
        for chosen in order.tensor_split(self._count):
            inputs = self.inputs[chosen]
            for augmentation in self._augmentations:
                inputs = augmentation(inputs, self.generator)
            yield inputs, self.labels[chosen]


def _check_augmentable(inputs: Tensor, augment: Sequence[str]) -> None:
    if augment and inputs.ndim != 4:
        raise InputError(f"augmentations {', '.join(augment)} are for images [N, C, H, W]; found {list(inputs.shape)}")


@AUGMENTATIONS.register("flip")
def flip(inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Mirror left and right, one sample in two."""
    mirrored = torch.rand(len(inputs), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, inputs.flip(3), inputs)


@AUGMENTATIONS.register("shift")
def shift(inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Move by up to an eighth of the size in each direction; border pixels are repeated."""
    rows = _moved(len(inputs), inputs.shape[2], generator)[:, :, None]
    columns = _moved(len(inputs), inputs.shape[3], generator)[:, None, :]
    samples = torch.arange(len(inputs))[:, None, None]
    moved = inputs[samples, :, rows, columns].permute(0, 3, 1, 2)
    # contiguous() would keep the strides of a single channel, which torch takes for channels last: its convolutions
    # then crashed with two threads on some widths
    return moved.clone(memory_format=torch.contiguous_format)


def _moved(samples: int, size: int, generator: torch.Generator | None) -> Tensor:
    """Indices `[N, size]`, each row moved by one number and kept inside."""
    reach = size // 8
    moves = torch.randint(-reach, reach + 1, (samples, 1), generator=generator)
    return (torch.arange(size) + moves).clamp(0, size - 1)
