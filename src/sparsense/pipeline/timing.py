"""Forward passes of torch networks timed in ONNX Runtime, each against the dense one, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from sparsense.benchmark.latency import Latency, compare_latency
from sparsense.benchmark.onnx_cost import onnx_call
from sparsense.networks.network import Network
from sparsense.pruning.grouping import widths
from sparsense.pruning.proof import bare_copy
from sparsense.recipe.schema import BenchmarkSection
from sparsense.to_onnx import export_forward


@dataclass
class Stopwatch:
    """Times variants of one network; a network with the same widths is not exported and timed twice.

    Args:
        dense: The baseline.
        section: Batch (the first of its batch sizes), threads and rounds.
        seed: Of inputs and order.
    """

    dense: Network
    section: BenchmarkSection
    seed: int = 0
    _dense_call: Callable[[], object] | None = None
    _known: dict[str, Latency] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Samples per call."""
        return self.section.batch_sizes[0]

    def against_dense(self, module: nn.Module) -> Latency:
        """How long a variant takes, and its ratio to the dense network."""
        key = repr(sorted(widths(module).items()))
        if key not in self._known:
            if self._dense_call is None:
                self._dense_call = self._call(self.dense.module)
            calls = {"dense": self._dense_call, "variant": self._call(module)}
            self._known[key] = compare_latency(calls, rounds=self.section.rounds, seed=self.seed)["variant"]
        return self._known[key]

    def side_by_side(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """The milliseconds of several variants, in turns: ratios within a round times the median of the first."""
        found = compare_latency(
            {name: self._call(module) for name, module in modules.items()}, rounds=self.section.rounds, seed=self.seed
        )
        first = next(iter(found.values())).median_ms
        return {name: latency.ratio * first for name, latency in found.items()}

    def _call(self, module: nn.Module) -> Callable[[], object]:
        model = export_forward(replace(self.dense, module=bare_copy(module)))
        return onnx_call(model.SerializeToString(), batch=self.batch, threads=self.section.threads, seed=self.seed)
