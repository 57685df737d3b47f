"""What all parts of a pruning job share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from sparsense.data import Dataset
from sparsense.detector import Progress
from sparsense.networks.network import Network
from sparsense.pipeline.kept_cuts import load_journey
from sparsense.pipeline.records import Scorer, network_inputs
from sparsense.pipeline.state import State, Watch
from sparsense.recipe.prune import PruneSection
from sparsense.recipe.schema import Recipe
from sparsense.recipe.training import TrainingSection
from sparsense.training.loop import Training
from sparsense.training.objectives import Context
from sparsense.training.run import Samples, make_training


@dataclass(frozen=True)
class Job:
    """One pruning job.

    Args:
        recipe: With a section `prune`.
        dense: The network as loaded; stays as it is.
        samples: To learn from; no test sample is among them.
        scorer: Makes saliencies.
        state: Keeps what is finished.
        progress: Told about everything that takes long.
    """

    recipe: Recipe
    dense: Network
    samples: Samples
    scorer: Scorer
    state: State
    progress: Progress

    @property
    def section(self) -> PruneSection:
        """The section `prune`."""
        assert self.recipe.prune is not None
        return self.recipe.prune

    @property
    def data(self) -> Dataset:
        """Training samples."""
        return self.samples.train

    def teacher(self) -> nn.Module:
        """The dense network to learn from: as loaded, or as it was trained before the first step."""
        trained = self.state.folder / "dense"
        return load_journey(trained, self.dense).now.network.module if trained.is_dir() else self.dense.module

    def training(self, network: Network, section: TrainingSection, *, seed: int) -> Training[object]:
        """A training run of a network, not begun yet."""
        found = self.samples.outliers
        outliers = None if found is None else network_inputs(network, found)
        context = Context(self.teacher(), network.preprocessing, outliers)
        return make_training(network, network.module, self.data, section, seed=seed, context=context)

    def train(
        self,
        name: str,
        training: Training[object],
        *,
        after_step: Callable[[], object] = lambda: None,
        until: Watch | None = None,
    ) -> None:
        """Go through a training run, kept after every epoch."""

        def report(_what: str, done: int, of: int) -> None:
            self.progress(name, done, of)

        self.state.train(name, training, after_step=after_step, report=report, until=until)
