"""Everything that is measured about the variants of a run, as rows of the card."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.benchmark.card import (
    AccuracyRow,
    CalibrationRow,
    Detector,
    LatencyRow,
    Layer,
    NetworkSize,
    ParityRow,
    ResultRow,
)
from sparsense.benchmark.classification import brier_score, expected_calibration_error, negative_log_likelihood
from sparsense.benchmark.joules import joules_per_call
from sparsense.benchmark.latency import Latency, compare_latency
from sparsense.benchmark.onnx_cost import load_time_ms, onnx_call, peak_memory
from sparsense.benchmark.uncertainty import Pair, compare, estimate, known_p_value, wilson_interval
from sparsense.data import Dataset
from sparsense.networks.network import Network, example_input
from sparsense.pipeline.detectors import Attached, Variant, VariantName
from sparsense.pruning.cost import measure_cost
from sparsense.recipe.schema import BenchmarkSection
from sparsense.recording.layers import prunable_layers, weight_channels
from sparsense.sensitivity import SensitivityRecord
from sparsense.training.evaluate import predict

Forward = tuple[str, str | None]


def size_of(variant: Variant) -> NetworkSize:
    """Numbers of parameters, multiply-adds, widths and bytes of one variant, without head."""
    module, content = variant.network.module, variant.forward
    layers = {name.removesuffix(".weight"): layer for name, layer in prunable_layers(module).items()}
    return NetworkSize(
        parameters=variant.network.parameters,
        nonzero=sum(int(parameter.count_nonzero()) for parameter in module.parameters()),
        multiply_adds=measure_cost(module, example_input(variant.network.input_shape)).multiply_adds,
        widths={name: weight_channels(layer) for name, layer in layers.items()},
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, 6)),
    )


def accuracy_row(variant: VariantName, stage: str, network: Network, test: Dataset) -> AccuracyRow:
    """How well a network does its own task on the test set, in torch."""
    return outcome_row(variant, stage, network, test, predict(network, network.preprocessing.arrange(test.inputs)))


def outcome_row(variant: VariantName, stage: str, network: Network, test: Dataset, output: NDArray[Any]) -> AccuracyRow:
    """The same from outputs that are already there."""
    if network.task == "reconstruction":
        wanted = network.preprocessing.apply(network.preprocessing.arrange(test.inputs))
        error = float(np.mean((output - wanted) ** 2))
        return AccuracyRow(variant=variant, stage=stage, dataset="test", n=len(test), reconstruction_error=error)
    if test.labels is None:
        return AccuracyRow(variant=variant, stage=stage, dataset="test", n=len(test))
    right = int((output.argmax(1) == test.labels).sum())
    return AccuracyRow(
        variant=variant,
        stage=stage,
        dataset="test",
        n=len(test),
        accuracy=right / len(test),
        accuracy_interval=wilson_interval(right, len(test)),
        expected_calibration_error=expected_calibration_error(output, test.labels),
        brier=brier_score(output, test.labels),
        negative_log_likelihood=negative_log_likelihood(output, test.labels),
    )


def detector_row(variant: VariantName, attached: Attached, file: str) -> Detector:
    """One exported file; its size and hash leave out the metadata, which holds this very row."""
    content = attached.content
    return Detector(
        variant=variant,
        head=attached.head,
        file=file,
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, 6)),
        sha256=hashlib.sha256(content).hexdigest(),
        precision=attached.precision,
    )


def calibration_row(variant: VariantName, attached: Attached) -> CalibrationRow:
    """What was asked, and what the test set says came of it."""
    found, test = attached.calibration, attached.flags["test"]
    alarms = int(test.sum())
    return CalibrationRow(
        variant=variant,
        head=attached.head,
        **found.to_dict(),
        realised=alarms / len(test),
        realised_n=len(test),
        realised_interval=wilson_interval(alarms, len(test)),
    )


def parity_row(variant: VariantName, attached: Attached) -> ParityRow:
    """The worst error over the batch sizes."""
    return ParityRow(
        variant=variant,
        head=attached.head,
        oracle=attached.parity.oracle,
        batch_sizes=[row["batch"] for row in attached.rows],
        worst=max(row["error"] for row in attached.rows),
        tolerance=attached.parity.tolerance,
    )


def result_rows(variants: Sequence[Variant], *, seed: int) -> list[ResultRow]:
    """Every detector against every anomalous set; pruned ones also against their dense twin, paired."""
    twins = {
        detector.head: detector for variant in variants if variant.name == "dense" for detector in variant.detectors
    }
    return [
        _result(variant.name, attached, name, twins.get(attached.head), seed)
        for variant in variants
        for attached in variant.detectors
        for name in attached.scores
        if name != "test"
    ]


def _result(variant: VariantName, attached: Attached, name: str, twin: Attached | None, seed: int) -> ResultRow:
    pair = _pair(attached, name)
    found = estimate(*pair, metrics=("auroc", "fpr95", "aupr_in", "aupr_out"), seed=seed)
    caught = int(attached.flags[name].sum())
    change: dict[str, Any] = {}
    if variant == "pruned" and twin is not None:
        before = _pair(twin, name)
        difference = compare(before, pair, metrics=("auroc",), seed=seed)["auroc"]
        p_value = known_p_value(before, pair)
        change = {
            "auroc_change": difference.value,
            "auroc_change_interval": difference.interval,
            "auroc_change_p": p_value,
        }
    return ResultRow(
        variant=variant,
        head=attached.head,
        dataset=name,
        n=len(attached.scores[name]),
        n_in_distribution=len(attached.scores["test"]),
        auroc=found["auroc"].value,
        auroc_interval=found["auroc"].interval,
        fpr95=found["fpr95"].value,
        fpr95_interval=found["fpr95"].interval,
        aupr_in=found["aupr_in"].value,
        aupr_out=found["aupr_out"].value,
        detected=caught / len(attached.scores[name]),
        detected_interval=wilson_interval(caught, len(attached.scores[name])),
        **change,
    )


def _pair(attached: Attached, name: str) -> Pair:
    return Pair(attached.scores["test"], attached.scores[name])


def latency_rows(
    variants: Sequence[Variant], section: BenchmarkSection, *, seed: int, progress: Callable[[str, int, int], None]
) -> list[LatencyRow]:
    """Plain forward passes and detectors of all variants, measured in turns; ratios to the plain dense forward pass."""
    files: dict[Forward, bytes] = {(variant.name, None): variant.forward for variant in variants}
    files |= {(variant.name, d.head): d.content for variant in variants for d in variant.detectors}
    loads = {key: load_time_ms(content, threads=section.threads) for key, content in files.items()}
    rows = []
    for step, batch in enumerate(section.batch_sizes):
        progress("measuring latency", step, len(section.batch_sizes))
        calls = {
            "/".join(map(str, key)): onnx_call(content, batch=batch, threads=section.threads)
            for key, content in files.items()
        }
        found = compare_latency(calls, rounds=section.rounds, seed=seed)
        peaks = peak_memory([*files.values()], batch=batch, threads=section.threads)
        rows += [
            _latency(key, found["/".join(map(str, key))], batch, section.threads).model_copy(
                update={"load_ms": loads[key], "peak_bytes": peak, "joules": joules_per_sample(call, batch)}
            )
            for key, call, peak in zip(files, calls.values(), peaks, strict=True)
        ]
    progress("measuring latency", len(section.batch_sizes), len(section.batch_sizes))
    return rows


def joules_per_sample(call: Callable[[], object], batch: int) -> float | None:
    """Of a call with a whole batch."""
    found = joules_per_call(call)
    return None if not found else found / batch


def _latency(key: Forward, found: Latency, batch: int, threads: int) -> LatencyRow:
    return LatencyRow(
        variant=key[0],  # type: ignore[arg-type]
        head=key[1],
        batch=batch,
        threads=threads,
        rounds=found.rounds,
        median_ms=found.median_ms,
        quartiles_ms=found.quartiles_ms,
        p99_ms=found.p99_ms,
        ratio=found.ratio,
        ratio_interval=found.ratio_interval,
        verdict=found.verdict,
    )


def layer_rows(
    dense: NetworkSize, before: SensitivityRecord, pruned: NetworkSize | None, after: SensitivityRecord | None
) -> list[Layer]:
    """Width and root mean square elasticity of every layer, before and after."""
    return [
        Layer(
            name=name,
            width_before=width,
            width_after=None if pruned is None else pruned.widths.get(name),
            sensitivity_before=_elasticity(before, name),
            sensitivity_after=None if after is None else _elasticity(after, name),
        )
        for name, width in dense.widths.items()
    ]


def _elasticity(record: SensitivityRecord, layer: str) -> float | None:
    if f"{layer}.weight" not in record.moments:
        return None
    return float(np.sqrt(record.moment(f"{layer}.weight", "elasticity_square").mean()))
