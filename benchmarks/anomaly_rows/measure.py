"""One case, one seed: networks are trained once, and every method scores the test samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from anomaly_rows.cases import Case
from anomaly_rows.methods import PUBLISHED_BATCHES, Method, Trained
from sparsense.benchmark.metrics import auroc
from sparsense.data import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import fit_head
from sparsense.graph import forward_graph, load_graph
from sparsense.heads import make_head
from sparsense.networks import Network, load_network
from sparsense.to_onnx import export_forward
from sparsense.training.alive import check_alive
from sparsense.training.batches import Batches
from sparsense.training.engine import Accelerator, Engine, Precision, make_engine
from sparsense.training.loop import Training, seeded
from sparsense.training.objectives import Context, make_objective
from sparsense.training.run import held_out, hold_out, labelled
from sparsense.training.selection import Selection
from sparsense.training.settings import TrainingSettings
from sparsense.training.start import start_at_mean

Scores = NDArray[Any]
PUBLISHED_VALIDATION = 0.1
LOOSE = 1e-3  # of exports: ONNX Runtime's sigmoid is not exact where it is small, and ranks are all that counts here
FITTED = 1000  # samples that heads are fitted on
SMALL_WIDTH, SMALL_WIDTHS = 8, (8, 16, 32, 32)  # of networks in runs for a CPU
PIXELS = {"fashion": {"mean": 0.2860, "std": 0.3530}}  # where they are not MNIST's


@dataclass(frozen=True)
class Length:
    """How long networks are trained, and whether they are the published ones.

    Args:
        epochs: Passes over the training samples.
        steps: At least so many steps, for small sets.
        batch_size: Of the largest batch.
        latent_steps: Of the latent-norm networks for images; 2000 are published.
        precision: In which convolutional networks are trained, `32` or `bf16`; scores are always of float32.
        full: Published networks and lengths.
        accelerator: That networks are trained on; scores are always of the CPU.
        validation: Share of GradCon's training images that chooses its epoch; 0: the last one.
    """

    epochs: int = 20
    steps: int = 0
    batch_size: int = 64
    latent_steps: int = 500
    precision: Precision = "32"
    full: bool = False
    accelerator: Accelerator = "cpu"
    validation: float = 0.0

    def held_out(self, how: Trained) -> float:
        """The share of the training samples that is not trained on; full runs take the published one."""
        published = how.network == "conv" and how.objective == "gradcon"
        return (PUBLISHED_VALIDATION if self.full else self.validation) if published else 0.0

    def engine(self, *, images: bool = True) -> Engine:
        """Where steps are computed; tables and series always in float32."""
        return make_engine(accelerator=self.accelerator, precision=self.precision if images else "32")


@dataclass
class Fitted:
    """A trained network with what its objective remembers, and its graph once a head asked for it."""

    network: Network
    objective: Any
    graph: Any = None


def measured(case: Case, named: Mapping[str, Method], length: Length, seed: int) -> Iterator[tuple[str, float]]:
    """Name and AUROC (in %) of every method."""
    made: dict[str, Fitted] = {}
    for name, method in named.items():
        key = method.trained.key
        if key not in made:
            made[key] = trained(case, method.trained, length, seed)
        yield name, evaluate(case, scores(case, made[key], method))


def trained(case: Case, how: Trained, length: Length, seed: int) -> Fitted:
    """A network, trained on the normal samples; one without batch norms may die on the way, which is an error."""
    with seeded(seed):
        network = make_network(case, how.network, full=length.full)
    data, unseen = hold_out(labelled(resized(case.train, network), network), length.held_out(how))
    size = _batch_size(case, how, length)
    batches = Batches.of(data, network.preprocessing, batch_size=size, seed=seed)
    epochs = _epochs(how, length, len(batches))
    settings = TrainingSettings(epochs, how.learning_rate, "adam", "constant", weight_decay=0.0, seed=seed)
    objective = make_objective(how.objective, how.options, Context())
    start_at_mean(network.module, batches.inputs)  # as the library does; of images, where a sigmoid is last
    engine = length.engine(images=batches.inputs.ndim == 4)
    run(network.module, objective, batches, settings, engine, selection=selection(unseen, network))
    if how.network == "conv":
        check_alive(network.module, batches.inputs, rate=how.learning_rate)
    network.remembered = dict(objective.remembered()) if hasattr(objective, "remembered") else {}
    return Fitted(network, objective)


def selection(unseen: Dataset | None, network: Network) -> Selection | None:
    """Keeps the epoch of the smallest objective on samples that are not trained on; None: the last."""
    return None if unseen is None else Selection("val_loss", held_out(unseen, network))


def run(
    module: nn.Module,
    objective: Any,
    batches: Batches,
    settings: TrainingSettings,
    engine: Engine,
    *,
    selection: Selection | None = None,
    after_step: Callable[[], object] = lambda: None,
) -> None:
    """Train, and bring all back to the CPU; images as channels last, which is faster and changes but rounding."""
    images = batches.inputs.ndim == 4
    if images:
        module.to(memory_format=torch.channels_last)
    training = Training(module, objective, batches, settings, selection=selection, engine=engine)
    while not training.done:
        training.epoch(after_step=after_step)
    module.to("cpu")
    if images:
        module.to(memory_format=torch.contiguous_format)
    if hasattr(objective, "load_state"):
        objective.load_state({name: tensor.cpu() for name, tensor in objective.state().items()})


def _batch_size(case: Case, how: Trained, length: Length) -> int:
    """The published one of the latent norm in `full` runs; GradCon's is 64."""
    published = PUBLISHED_BATCHES.get(case.row) if how.objective == "latent_norm" else None
    return min(published, len(case.train)) if length.full and published else length.batch_size


def _epochs(how: Trained, length: Length, batches: int) -> int:
    latent = how.network.startswith("latent")
    if length.full:
        return 1000 if how.network == "conv" else -(-2000 // batches)
    return -(-length.latent_steps // batches) if latent else max(length.epochs, -(-length.steps // batches))


def make_network(case: Case, kind: str, *, full: bool) -> Network:
    """The network of a method; that of a table is as wide as the table, behind its scaling."""
    shape = case.train.inputs.shape[1:]
    if kind == "table" or kind.startswith("unit"):
        return _table_network(case.train.inputs, kind)
    channels = {"channels": shape[-1]}
    if kind == "conv":
        return load_network("gradcon_autoencoder", options=channels)
    if kind.startswith("unet"):
        skips = {"skips": 0} if kind == "unet closed" else {}
        widths = {} if full else {"widths": SMALL_WIDTHS}
        return load_network("unet_autoencoder", options={**channels, **skips, **widths, "side": shape[0]})
    return _latent_network(case.row, channels, unit=kind == "latent unit", full=full)


def _latent_network(row: str, channels: dict[str, int], *, unit: bool, full: bool) -> Network:
    """Of the latent-norm publication; unless `full`, with an eighth or a quarter of its channels."""
    options = {**channels, **({} if full else {"width": SMALL_WIDTH}), **({"output": "sigmoid"} if unit else {})}
    if row == "cifar10":
        return load_network("latent_norm_colour32", options=options)
    latent = {"latent": 256} if row == "fashion" else {}
    pixels = {"mean": 0.0, "std": 1.0} if unit else PIXELS.get(row, {})
    return load_network("latent_norm_grey28", options={**options, **latent, **pixels})


def _table_network(rows: NDArray[Any], kind: str) -> Network:
    """Widths and code as published; GradCon's networks have no batch norm."""
    unit = kind != "table"
    mean, std = (rows.min(0), np.ptp(rows, 0)) if unit else (rows.mean(0), rows.std(0))
    numbers = tuple(mean.tolist()), tuple(np.where(std > 0, std, 1).tolist())
    options = {"features": rows.shape[1], "batch_norm": kind != "unit"} | ({"output": "sigmoid"} if unit else {})
    return load_network(
        "latent_norm_table", options=options, preprocessing=Preprocessing("ND", "float32", 1.0, *numbers)
    )


def resized(data: Dataset, network: Network) -> Dataset:
    """Images at the size that the network takes."""
    from sparsense.data.images import resize

    side = network.input_shape[-1]
    if data.inputs.ndim == 2 or data.inputs.shape[1] == side:
        return data
    return replace(data, inputs=resize(data.inputs, side, None))


def scores(case: Case, fitted: Fitted, method: Method) -> Scores:
    """Of the test samples."""
    network = fitted.network
    test = resized(case.test, network).inputs
    if method.head is not None:
        return deployed(case, fitted, method, network.preprocessing.arrange(test))
    inputs = network.seen(test)
    with torch.no_grad():
        return torch.cat([fitted.objective.scores(network.module, part) for part in torch.split(inputs, 256)]).numpy()


def deployed(case: Case, fitted: Fitted, method: Method, test: Scores) -> Scores:
    """Those of the detector's graph, its head fitted on training samples."""
    assert method.head is not None
    network = fitted.network
    if fitted.graph is None:
        graph = load_graph(export_forward(network, tolerance=LOOSE))
        fitted.graph = forward_graph(graph, network.preprocessing, task="reconstruction")
        fitted.graph.remembered = {name: mean.numpy() for name, mean in network.remembered.items()}
    data = resized(case.train.subset(FITTED, seed=0), network)
    head = make_head(method.head, method.head_options)
    found: Scores = fit_head(fitted.graph, head, data, preprocessing=network.preprocessing).scores(test)
    return found


def evaluate(case: Case, found: Scores) -> float:
    """AUROC in %, of groups where the case has them."""
    marks = case.test.labels
    assert marks is not None
    if case.groups is not None:
        count = np.bincount(case.groups)
        found, marks = np.bincount(case.groups, found) / count, np.bincount(case.groups, marks).clip(0, 1).astype(int)
    return 100 * auroc(found[marks == 0], found[marks != 0])
