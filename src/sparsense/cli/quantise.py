"""`sparsense quantise`: a forward network in fewer bits where that is faster and as good; else numbers and no file."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsense.cli.app import app
from sparsense.cli.attach import Layout, Numbers, input_shape, preprocessing_of, read_data
from sparsense.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

REFUSED = 1


class Bits(StrEnum):
    """What to turn it into."""

    INT8 = "int8"
    FLOAT16 = "float16"


@app.command()
def quantise(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A float32 classifier, ONNX.")],
    calibration: Annotated[Path, typer.Option(help="Data that sets the ranges: a folder of images, .npz or .npy.")],
    test: Annotated[Path, typer.Option(help="Other data, with labels, to judge on.")],
    output: Annotated[Path, typer.Option(help="The model to write.")],
    to: Annotated[Bits, typer.Option(help="float16 pays where the provider computes in it.")] = Bits.INT8,
    anomalous: Annotated[Path | None, typer.Option(help="Anomalies: the energy score's AUROC is judged, too.")] = None,
    labels: Annotated[str | None, typer.Option(help="Key in the .npz, or a second .npy file.")] = None,
    layout: Annotated[Layout, typer.Option(help="Of image arrays.")] = Layout.NHWC,
    scale: Annotated[float | None, typer.Option(help="Multiplies the raw input.  [default: 1/255; rows: 1]")] = None,
    mean: Numbers = "0",
    std: Numbers = "1",
    accuracy_budget: Annotated[float, typer.Option(min=0, max=1, help="Largest loss of accuracy.")] = 0.005,
    auroc_budget: Annotated[float, typer.Option(min=0, max=1, help="Largest loss of AUROC.")] = 0.005,
    batch: Annotated[int, typer.Option(min=1, help="Samples per call, where speed is measured.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="For ONNX Runtime.")] = 1,
) -> None:
    """Turn a network into INT8 or float16 where it pays; exit code 1, and no file, where it does not.

    In INT8 activations are unsigned bytes, weights signed bytes per output channel (of seven bits where the processor
    needs that). Attach heads on outputs or features to the
    result; heads that take gradients need the float32 network.
    """
    from sparsense.files import atomic_write, check_place
    from sparsense.quantise import Budget, quantise_if_better
    from sparsense.quantise.judge import Trial

    check_place(output)
    shape = input_shape(model, None)
    see = preprocessing_of(shape, layout, scale, mean, std)
    read = partial(read_data, split="all", shape=shape, layout=layout.value, limit=None)
    judged = read(test, labels=labels)
    if judged.labels is None:
        raise InputError(
            f"judging fewer bits on {test}: expected labels, found none; give --labels, or a folder per class"
        )

    def inputs(path: Path) -> NDArray[Any]:
        return see.apply(see.arrange(read(path, labels=None).inputs))

    trial = Trial(inputs(test), judged.labels, None if anomalous is None else inputs(anomalous))
    budget = Budget(accuracy_budget, auroc_budget, batch, threads=threads)
    content, found = quantise_if_better(model, inputs(calibration), trial, budget, to=to.value)
    typer.echo(found, err=True)
    if content is None:
        raise typer.Exit(REFUSED)
    with atomic_write(output) as temporary:
        temporary.write_bytes(content)
    typer.echo(output)
