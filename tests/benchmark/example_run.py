"""A run as the pipeline would leave it behind, made up but consistent: the example of a card.

The rows are computed from invented scores with the project's own metrics, as the pipeline does it.
"""

import hashlib

import numpy as np

from sparsense.benchmark.card import (
    AccuracyRow,
    CalibrationRow,
    Card,
    DataSet,
    Detector,
    LatencyRow,
    Layer,
    Machine,
    Networks,
    NetworkSize,
    ParityRow,
    Pruning,
    RecipeText,
    ResultRow,
)
from sparsense.benchmark.metrics import aupr, flagged
from sparsense.benchmark.score_file import ScoreKey, write_scores
from sparsense.benchmark.uncertainty import Pair, compare, delong_p_value, estimate, wilson_interval

RATE = 0.05
HEADS = {"sensnorm_profile": 2.6, "energy": 1.6, "msp": 1.4}
SETS = {"svhn": 1.1, "textures": 0.9, "tiny_imagenet": 0.7}
LAYERS = {
    "conv1": 16,
    **{f"layer{s}.{b}.conv{c}": 16 * 2 ** (s - 1) for s in (1, 2, 3) for b in (0, 1, 2) for c in (1, 2)},
}
RECIPE = """name: cifar-resnet20
network:
  source: cifar_resnet20
data:
  train: {source: cifar10, split: train}
  calibration: {source: cifar10, split: calibration}
  test: {source: cifar10, split: test}
  anomalies:
    svhn: {source: svhn, split: test, limit: 1000}
prune:
  criterion: magnitude
  sparsity: 0.3   # of channels; <b>not markup</b>
"""


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def make_scores(seed=0):
    """Scores of both variants: the pruned ones are the dense ones, disturbed a little."""
    random = np.random.default_rng(seed)
    scores = {}
    for head, strength in HEADS.items():
        for name, count, shift in (("test", 728, 0.0), *((s, 600, strength * w) for s, w in SETS.items())):
            dense = (
                random.gumbel(shift, 1, count)
                if head != "msp"
                else 1 / (1 + np.exp(2 - random.gumbel(shift, 1, count)))
            )
            noise = random.normal(0, 0.3 * dense.std(), count)
            scores[ScoreKey("dense", head, name)] = dense
            scores[ScoreKey("pruned", head, name)] = dense + noise
        calibration = random.gumbel(0, 1, 500)
        scores[ScoreKey("dense", head, "calibration")] = (
            calibration if head != "msp" else 1 / (1 + np.exp(2 - calibration))
        )
        scores[ScoreKey("pruned", head, "calibration")] = scores[ScoreKey("dense", head, "calibration")]
    return scores


def make_card(scores):
    detectors = [(variant, head) for head in HEADS for variant in ("dense", "pruned")]
    return Card(
        name="cifar-resnet20",
        created="2026-01-15T12:34:56Z",
        seed=0,
        recipe=RecipeText(text=RECIPE, sha256=digest(RECIPE)),
        versions={"sparsense": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.31.1"},
        machine=Machine(
            cpu="Example CPU @ 3.0 GHz", cores=2, memory_bytes=16 * 10**9, features=["avx2"], system="Linux x86_64",
            python="3.11.9",
        ),
        data=make_data(),
        network=make_networks(),
        pruning=Pruning(
            criterion="magnitude",
            structure="channel",
            scope="global",
            target="sparsity 0.3",
            reached={"sparsity of channels": 0.302, "multiply-adds kept": 0.51},
            proof="removed equals masked on 64 inputs, worst difference 2.1e-08",
        ),
        detectors=[
            Detector(variant=v, head=h, file=f"{v}_{h}.onnx", bytes=1_150_000, gzip_bytes=1_010_000,
                     sha256=digest(v + h))
            for v, h in detectors
        ],
        accuracy=make_accuracy(),
        layers=make_layers(),
        calibration=[calibration_row(scores, *detector) for detector in detectors],
        parity=[
            ParityRow(variant=v, head=h, oracle="torch per-sample autograd, float64", batch_sizes=[1, 2, 7, 32],
                      worst=3.4e-7, tolerance=1e-5)
            for v, h in detectors
        ],
        results=[result_row(scores, *detector, name) for detector in detectors for name in SETS],
        latency=make_latency(),
        notes=["An example: every number is invented."],
    )  # fmt: skip


def make_data():
    roles = {"train": "train", "calibration": "calibration", "test": "test"} | dict.fromkeys(SETS, "anomalous")
    counts = {"train": 2000, "calibration": 500, "test": 728} | dict.fromkeys(SETS, 600)
    return [
        DataSet(name=name, role=role, source=f"cifar10/{name}" if role != "anomalous" else f"{name}/test",
                count=counts[name], sha256=digest(name))
        for name, role in roles.items()
    ]  # fmt: skip


def make_networks():
    dense = NetworkSize(
        parameters=269_722,
        nonzero=269_722,
        multiply_adds=40_813_184,
        widths=LAYERS,
        bytes=1_086_000,
        gzip_bytes=1_001_000,
    )
    widths = {name: max(8, int(width * 0.7) // 8 * 8) for name, width in LAYERS.items()}
    pruned = NetworkSize(
        parameters=140_254, nonzero=140_254, multiply_adds=20_815_360, widths=widths, bytes=566_000, gzip_bytes=521_000
    )
    return Networks(source="cifar_resnet20", task="classifier", dense=dense, pruned=pruned)


def make_accuracy():
    stages = [("dense", "as loaded", 0.913), ("pruned", "pruned", 0.412), ("pruned", "batch norm re-estimated", 0.784),
              ("pruned", "fine-tuned", 0.905)]  # fmt: skip
    return [
        AccuracyRow(
            variant=variant,
            stage=stage,
            dataset="test",
            n=728,
            accuracy=round(share * 728) / 728,
            accuracy_interval=wilson_interval(round(share * 728), 728),
            expected_calibration_error=0.04,
            brier=0.14,
            negative_log_likelihood=0.31,
        )
        for variant, stage, share in stages
    ]


def make_layers():
    widths = make_networks().pruned.widths
    return [
        Layer(name=name, width_before=width, width_after=widths[name], sensitivity_before=2e-4 / (1 + i / 3),
              sensitivity_after=3e-4 / (1 + i / 4))
        for i, (name, width) in enumerate(LAYERS.items())
    ]  # fmt: skip


def threshold_of(scores, variant, head):
    calibration = np.sort(scores[ScoreKey(variant, head, "calibration")])
    return float(calibration[int(np.ceil(501 * (1 - RATE))) - 1])


def calibration_row(scores, variant, head):
    threshold = threshold_of(scores, variant, head)
    test = scores[ScoreKey(variant, head, "test")]
    return CalibrationRow(
        variant=variant,
        head=head,
        rate=RATE,
        threshold=threshold,
        n=500,
        interval=(0.033, 0.071),
        realised=flagged(test, threshold),
        realised_n=len(test),
        realised_interval=wilson_interval(int((test > threshold).sum()), len(test)),
    )


def result_row(scores, variant, head, name):
    pair = pair_of(scores, variant, head, name)
    found = estimate(*pair, resamples=200)
    threshold = threshold_of(scores, variant, head)
    flags = int((pair.anomalous > threshold).sum())
    changes = {}
    if variant == "pruned":
        dense = pair_of(scores, "dense", head, name)
        change = compare(dense, pair, metrics=["auroc"], resamples=200)["auroc"]
        changes = {
            "auroc_change": change.value,
            "auroc_change_interval": change.interval,
            "auroc_change_p": delong_p_value(dense, pair),
        }
    return ResultRow(
        variant=variant,
        head=head,
        dataset=name,
        n=len(pair.anomalous),
        n_in_distribution=len(pair.in_distribution),
        auroc=found["auroc"].value,
        auroc_interval=found["auroc"].interval,
        fpr95=found["fpr95"].value,
        fpr95_interval=found["fpr95"].interval,
        aupr_in=aupr(*pair, positive="in_distribution"),
        aupr_out=aupr(*pair),
        detected=flags / len(pair.anomalous),
        detected_interval=wilson_interval(flags, len(pair.anomalous)),
        **changes,
    )


def pair_of(scores, variant, head, name):
    return Pair(scores[ScoreKey(variant, head, "test")], scores[ScoreKey(variant, head, name)])


def make_latency():
    ratios = {("dense", None): 1.0, ("pruned", None): 0.54, ("dense", "sensnorm_profile"): 4.6,
              ("pruned", "sensnorm_profile"): 2.3, ("dense", "energy"): 1.01, ("pruned", "energy"): 0.55,
              ("dense", "msp"): 1.004, ("pruned", "msp"): 0.56}  # fmt: skip
    rows = []
    for batch, base in ((1, 0.61), (32, 17.2)):
        for (variant, head), ratio in ratios.items():
            low, high = ratio * 0.985, ratio * 1.015
            verdict = "faster" if high < 1 else "slower" if low > 1 else "not distinguishable"
            baseline = (variant, head) == ("dense", None)
            rows.append(
                LatencyRow(
                    variant=variant,
                    head=head,
                    batch=batch,
                    threads=1,
                    rounds=50,
                    median_ms=base * ratio,
                    quartiles_ms=(base * ratio * 0.97, base * ratio * 1.06),
                    p99_ms=base * ratio * 1.4,
                    ratio=ratio,
                    ratio_interval=(1.0, 1.0) if baseline else (low, high),
                    verdict="baseline" if baseline else verdict,
                    load_ms=14.2,
                    peak_bytes=21_000_000,
                )
            )
    return rows


def write_example(folder):
    """`card.json` and `scores.npz`, as a run leaves them."""
    scores = make_scores()
    make_card(scores).save(folder / "card.json")
    write_scores(folder / "scores.npz", scores)
