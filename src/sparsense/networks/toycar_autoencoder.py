"""The fully connected autoencoder of the MLPerf Tiny benchmark, for windows of a log-mel spectrogram."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS, Task

HIDDEN = (128, 128, 128, 128, 8, 128, 128, 128, 128)


@NETWORKS.register("toycar_autoencoder")
class ToyCarAutoencoder(nn.Module):
    """`[N, features]` -> 128 x 4 -> 8 -> 128 x 4 -> `[N, features]`; batch norm and ReLU between the layers.

    Reference:
        C. Banbury et al., MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021, arXiv:2106.07597.
    """

    preprocessing = Preprocessing(layout="ND", dtype="float32", scale=1.0)
    task: Task = "reconstruction"

    def __init__(self, *, features: int = 640) -> None:
        super().__init__()
        self.input_shape = (features,)
        layers: list[nn.Module] = []
        for width, following in pairwise((features, *HIDDEN)):
            layers += [nn.Linear(width, following), nn.BatchNorm1d(following, 1e-3), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], features))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        output: Tensor = self.net(x)
        return output
