"""`sparsense attach`: a head on anybody's classifier or autoencoder, from its ONNX file and some data."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparsense.cli.app import app
from sparsense.cli.per_class import PerClass, named
from sparsense.cli.progress import progress
from sparsense.cli.promise import left_out, promise
from sparsense.errors import InputError

if TYPE_CHECKING:
    from sparsense.data import Dataset
    from sparsense.data.preprocessing import Preprocessing


class Layout(StrEnum):
    """Order of the axes of the detector's input."""

    NHWC = "NHWC"
    NCHW = "NCHW"


Numbers = Annotated[str, typer.Option(metavar="A[,B,C]", help="One number, or one per channel.")]


class Detail(StrEnum):
    """The head's own parts, or finer ones."""

    PARTS = "parts"
    LAYERS = "layers"
    CHANNELS = "channels"


@app.command()
def attach(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A classifier or autoencoder, ONNX.")],
    head: Annotated[str, typer.Option(help="See: sparsense list heads.")],
    data: Annotated[Path, typer.Option(help="In-distribution data: a folder of images, .npz or .npy.")],
    output: Annotated[Path, typer.Option(help="The detector file to write.")],
    calibration: Annotated[
        Path | None, typer.Option(help="Held-out data for the threshold.  [default: a third of DATA]")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Key in the .npz, or a second .npy file.")] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the head.")] = None,
    false_alarm_rate: Annotated[float, typer.Option(help="Allowed share of false alarms.")] = 0.05,
    layout: Annotated[Layout, typer.Option(help="Of image arrays, here and in the detector's input.")] = Layout.NHWC,
    scale: Annotated[float | None, typer.Option(help="Multiplies the raw input.  [default: 1/255; rows: 1]")] = None,
    mean: Numbers = "0",
    std: Numbers = "1",
    size: Annotated[str | None, typer.Option(metavar="H,W", help="Of images, for a model with free sizes.")] = None,
    output_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model's answer, any value in it.  [default: first output, its logits]"),
    ] = None,
    per_class: Annotated[
        PerClass, typer.Option(help="A threshold per predicted class; pool: of classes with enough samples.")
    ] = PerClass.NO,
    explain: Annotated[bool, typer.Option("--explain", help="Add outputs that say what a score is made of.")] = False,
    detail: Annotated[
        Detail, typer.Option(help="What --explain divides a score into; parts: the head's own.")
    ] = Detail.PARTS,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for what the head observes: a fitting goes on after an interruption.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest relative error of the scores at which the file is kept.")
    ] = 1e-5,
    private: Annotated[
        bool, typer.Option("--private", help="Store no calibration inputs and no hashes of inputs in the file.")
    ] = False,
    group: Annotated[
        int, typer.Option(min=1, help="Judge so many consecutive inputs as one, as of a scene seen several times.")
    ] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most so many samples.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Attach a head to an ONNX model: one calibrated file.

    The preprocessing, (x * scale - mean) / std, becomes part of the detector.
    """
    from sparsense.detector import AttachSettings, attach_to_file
    from sparsense.heads import make_head

    chosen = make_head(head, _head_options(head, option or []))
    shape = input_shape(model, size)
    read = partial(read_data, shape=shape, labels=labels, layout=layout.value, limit=limit)
    fit = read(data, "train" if calibration is None else "all")
    held_out = read(data, "calibration") if calibration is None else read(calibration, "all")
    preprocessing = preprocessing_of(shape, layout, scale, mean, std)

    settings = AttachSettings(
        false_alarm_rate,
        named(per_class),
        in_detail(detail) if explain else None,
        output_name,
        cache,
        tolerance,
        private,
        group,
    )
    with progress(quiet=quiet) as report:
        card = attach_to_file(
            model, chosen, output, fit=fit, calibration=held_out, preprocessing=preprocessing,
            settings=settings, progress=report,
        )  # fmt: skip
    if not quiet:
        _tell(card, head, len(fit))
    typer.echo(output)


def in_detail(choice: Detail) -> Literal["parts", "layers", "channels"]:
    """As the library calls it."""
    if choice is Detail.PARTS:
        return "parts"
    return "layers" if choice is Detail.LAYERS else "channels"


def _tell(card: dict[str, Any], head: str, fitted: int) -> None:
    """On stderr: what the detector was made from, what it promises, and what could be better."""
    found = card["calibration"]
    groups = f" groups of {card['group']}" if "group" in card else ""
    typer.echo(f"{head} fitted on {fitted:,}, calibrated on {found['n']:,}{groups}: {promise(found)}", err=True)
    for line in [*left_out(card), *_hints(card)]:
        typer.echo(line, err=True)


def _hints(card: dict[str, Any]) -> list[str]:
    """What the card warns of; and what was done where a file answers with probabilities: heads are made for logits."""
    if warnings := card.get("warnings"):
        return [f"note: {warning}" for warning in warnings]
    network = card.get("network") or {}
    if (given := network.get("given")) != network.get("output"):
        found = (
            f"note: {given!r} holds probabilities; the logits before them, {network['output']!r}, were taken instead"
        )
        return [f"{found} (--output-name {given} keeps them)"]
    if not network.get("logits") or card["task"] != "classifier":
        return []
    found = f"note: {network['output']!r} holds probabilities; heads expect the logits before them: "
    return [f"{found}--output-name {network['logits']}"]


def _head_options(head: str, assignments: list[str]) -> dict[str, Any]:
    """The options of a head that is known to exist and to take them."""
    from sparsense.recipe import parse_override
    from sparsense.recipe.names import head_problems

    options = dict(parse_override(text) for text in assignments)
    for _, problem in head_problems("head", head, options):
        raise InputError(f"attaching head {head!r}: {problem}") from problem
    return options


def input_shape(model: Path, size: str | None) -> tuple[int, ...]:
    """The shape of one input, (C, H, W) or (D,), as the model declares it."""
    from sparsense.graph.channels import channels_last
    from sparsense.inspect import inspect_file

    inputs = inspect_file(model).inputs
    if len(inputs) != 1 or len(inputs[0].shape) not in (2, 4):
        found = ", ".join(f"{value.name} {list(value.shape)}" for value in inputs)
        raise InputError(
            f"attaching to {model}: expected one input [N, C, H, W], [N, H, W, C] or [N, D]; found {found}"
        )
    shape = list(inputs[0].shape[1:])
    if channels_last(inputs[0].shape):
        shape = [shape[2], *shape[:2]]
    if size is not None and len(shape) == 3:
        shape[1:] = map(int, _numbers(size, "--size"))
    known = tuple(side for side in shape if isinstance(side, int))
    if len(known) != len(shape):
        advice = "give --size H,W" if len(shape) == 3 else "export it with a fixed number of columns"
        raise InputError(f"attaching to {model}: its input {shape} has free sizes; {advice}")
    return known


def read_data(
    path: Path, split: str, *, shape: tuple[int, ...], labels: str | None, layout: str, limit: int | None
) -> Dataset:
    """A folder of images or an array file; divided 2 : 1 where one split of it is asked for."""
    from sparsense.data import SOURCES

    options: dict[str, Any] = {"path": str(path), "shares": (2 / 3, 1 / 3, 0.0), "limit": limit}
    if path.suffix.lower() in (".npz", ".npy"):
        return SOURCES[path.suffix.lower()[1:]](split, labels=labels, layout=layout, **options)
    if len(shape) != 3:
        raise InputError(f"the model takes rows of {shape[0]} numbers: give an .npz or .npy file instead of {path}")
    return SOURCES["image_folder"](split, size=shape[1:], channels=shape[0], **options)


def preprocessing_of(shape: tuple[int, ...], layout: Layout, scale: float | None, mean: str, std: str) -> Preprocessing:
    """What the options say, checked against the shape of an input."""
    from sparsense.data.preprocessing import Preprocessing

    means, stds = _numbers(mean, "--mean"), _numbers(std, "--std")
    for option, values in (("--mean", means), ("--std", stds)):
        if len(values) not in (1, shape[0]):
            raise InputError(f"{option} has {len(values)} numbers; expected 1, or {shape[0]} for inputs {list(shape)}")
    if min(stds) <= 0:
        raise InputError(f"--std must be positive; got {std}")
    if len(shape) == 1:
        return Preprocessing("ND", "float32", 1.0 if scale is None else scale, means, stds)
    return Preprocessing(layout.value, "uint8", 1 / 255 if scale is None else scale, means, stds)


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option}: expected numbers with commas between, such as 0.5,0.5; got {text!r}") from error
