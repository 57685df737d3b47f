"""What all parts of a pruning job share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from sparsense.data import Dataset
from sparsense.detector import Progress
from sparsense.errors import InputError, TrainingError
from sparsense.networks import save_network
from sparsense.networks.network import Network
from sparsense.pipeline.kept_cuts import load_journey
from sparsense.pipeline.records import Scorer
from sparsense.pipeline.state import State, Watch
from sparsense.recipe.prune import PruneSection
from sparsense.recipe.schema import Recipe
from sparsense.recipe.training import TrainingSection
from sparsense.training.fit import back_to_last_good, with_place
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
        outliers = None if found is None else network.seen(found.inputs)
        context = Context(self.teacher(), network.preprocessing, outliers)
        return make_training(network, network.module, self.data, section, seed=seed, context=context)

    def train(
        self,
        name: str,
        training: Training[object],
        result: Callable[[], Network],
        *,
        after_step: Callable[[], object] = lambda: None,
        until: Watch | None = None,
    ) -> None:
        """Go through a training run, kept after every epoch; if it diverges, its last good network is written.

        Args:
            name: For progress, and of the file that keeps it.
            training: Of a module of that network.
            result: The network as the training has left it so far.
            after_step: Called after every step.
            until: Decides after every epoch whether it is over.

        Raises:
            TrainingError: It diverged; the message says where the last good network lies.
        """

        def report(_what: str, done: int, of: int) -> None:
            self.progress(name, done, of)

        def explained(error: TrainingError, checkpoint: Path) -> TrainingError:
            output = self.state.output
            if output is None or not checkpoint.is_file():
                return with_place(error, f"No epoch of {name} was finished before, so nothing of it is kept")
            which = back_to_last_good(training, checkpoint)
            checkpoint.unlink()
            try:
                file = save_network(result(), output.with_name(f"{output.name}.last-good.safetensors"))
            except InputError as broken:
                return with_place(error, f"The network after {which} of {name} cannot be kept: {broken}")
            return with_place(error, f"The network after {which} of {name} is kept in {file}")

        self.state.train(name, training, after_step=after_step, report=report, until=until, diverged=explained)
