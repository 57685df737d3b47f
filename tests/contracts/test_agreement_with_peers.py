"""Every head that pytorch-ood has, too, on the same features: equal, or related as said here, or off for a reason.

Where that library departs from the publication, the comparison is with the parts that do not, or with the formula
written out; `NOT_COMPARED` says which and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from peer_library import peers
from scipy import special, stats
from torch import nn

from observing import ROWS, linear_network, on_features
from sparsense.data.dataset import Dataset
from sparsense.detector import Scored, fit_head
from sparsense.heads import HEADS

COUNT, FEATURES, CLASSES = 600, 8, 4
RANDOM = np.random.default_rng(0)
WEIGHT = (0.5 * RANDOM.standard_normal((FEATURES, CLASSES))).astype(np.float32)
BIAS = (0.1 * RANDOM.standard_normal(CLASSES)).astype(np.float32)
CENTRES = np.abs(RANDOM.standard_normal((CLASSES, FEATURES))) * 2


def draw(count: int, spread: float, seed: int) -> np.ndarray:
    """Features behind a ReLU, around what the classes look like."""
    random = np.random.default_rng(seed)
    around = 0.3 * CENTRES[np.arange(count) % CLASSES] + 3 * WEIGHT.T[np.arange(count) % CLASSES]
    return np.maximum(around + spread * random.standard_normal((count, FEATURES)), 0).astype(np.float32)


FIT, TEST = draw(COUNT, 0.7, 1), draw(80, 1.5, 2)
PREDICTED = (FIT @ WEIGHT + BIAS).argmax(1)
LABELS = PREDICTED.copy()
LABELS[::15] = (LABELS[::15] + 1) % CLASSES
W, B, Z, Y = (torch.from_numpy(np.array(a)) for a in (WEIGHT.T, BIAS, FIT, LABELS))
X = torch.from_numpy(TEST)
LOGITS, FIT_LOGITS = (rows.double() @ W.T.double() + B.double() for rows in (X, Z))  # 1 - p has no digits in float32


def linear() -> nn.Linear:
    layer = nn.Linear(FEATURES, CLASSES)
    layer.weight.data, layer.bias.data = W.clone(), B.clone()
    return layer


def maps(features: torch.Tensor) -> torch.Tensor:
    """Features as maps of one position."""
    return features[:, :, None, None]


def behind_maps() -> nn.Module:
    return nn.Sequential(nn.Flatten(), linear())


@dataclass(frozen=True)
class Pair:
    """A head, its namesake, and how the two are related.

    Attributes:
        head: Name of the head.
        theirs: Their module -> their scores of the test features.
        options: Of our head, so that both compute the same thing.
        ours: What our score must be, from theirs.
        tolerance: Relative.
    """

    head: str
    theirs: Callable[[Any], Any]
    options: dict[str, Any] = field(default_factory=dict)
    ours: Callable[[np.ndarray], np.ndarray] = lambda theirs: theirs
    tolerance: float = 2e-5


def feature_fit(detector: Any, labels: torch.Tensor = Y) -> Any:
    return detector.fit_features(Z, labels).predict_features(X)


def map_fit(detector: Any) -> Any:
    return detector.fit_feature_maps(maps(Z), Y).predict_feature_maps(maps(X))


def grad_norm(peer: Any) -> Any:
    return peer.GradNorm(linear(), param_filter=lambda name: name == "weight").predict(X)


@dataclass(frozen=True)
class Tail:
    """A Weibull distribution as their OpenMax asks it."""

    location: float
    scale: float
    shape: float

    def w_score(self, distance: float) -> float:
        return float(stats.weibull_min.cdf(distance, self.shape, self.location, self.scale))


def openmax(peer: Any) -> Any:
    """Their revision of the logits with our tails: theirs are fitted by another method."""
    head = HEADS["openmax"](alpha=3, tail=20)
    on_features(head, WEIGHT, BIAS, FIT, TEST, LABELS)
    correct = torch.from_numpy(PREDICTED == LABELS)
    theirs = peer.openmax.numpy.OpenMax(tailsize=20, alpha=3).fit(FIT_LOGITS[correct].numpy(), LABELS[correct.numpy()])
    np.testing.assert_allclose(head.state()["means"], np.stack([theirs.centers[c] for c in range(CLASSES)]), rtol=1e-5)
    theirs.distributions = {label: Tail(*tail) for label, tail in enumerate(head.state()["tails"])}
    return theirs.predict(LOGITS.numpy())[:, 0]


def fitted_gram() -> Scored:
    data = Dataset("fit", FIT, LABELS.astype(np.int64))
    return fit_head(linear_network(WEIGHT, BIAS), HEADS["gram"](powers=(1, 2, 3)), data, preprocessing=ROWS)


def gram(peer: Any) -> Any:
    """Their deviations with our ranges, over the confidence: theirs come from a random split, and leave it out."""
    state = {name: torch.from_numpy(value).float() for name, value in fitted_gram().head.state().items()}
    theirs = peer.Gram(nn.Identity(), [linear()], CLASSES, [1, 2, 3])
    theirs.feature_min, theirs.feature_max = (
        [list(state[name].split(CLASSES, dim=1))] for name in ("lowest", "highest")
    )
    theirs.layer_norm = 1 / state["weights"][:1]
    return theirs.predict(X) / LOGITS.softmax(1).max(1).values


PAIRS = [
    Pair("msp", lambda peer: peer.MaxSoftmax.score(LOGITS), ours=lambda s: 1 + s),
    Pair("msp", lambda peer: peer.MaxSoftmax.score(LOGITS, t=3.0), {"temperature": 3.0}, lambda s: 1 + s),
    Pair("max_logit", lambda peer: peer.MaxLogit.score(LOGITS)),
    Pair("energy", lambda peer: peer.EnergyBased.score(LOGITS)),
    Pair("energy", lambda peer: peer.EnergyBased.score(LOGITS, t=2.0), {"temperature": 2.0}),
    Pair("entropy", lambda peer: peer.Entropy.score(LOGITS)),
    Pair("gen", lambda peer: peer.GEN.score(LOGITS), {"top": CLASSES}, lambda s: CLASSES * s),
    Pair("gen", lambda peer: peer.GEN.score(LOGITS, M=2), {"top": 2}, lambda s: 2 * s),
    Pair("kl_matching", lambda peer: peer.KLMatching(None).fit_logits(FIT_LOGITS).predict_logits(LOGITS),
         tolerance=1e-4),
    Pair("openmax", openmax, {"alpha": 3, "tail": 20}, special.logit, tolerance=1e-4),
    Pair("react", lambda peer: map_fit(peer.ReAct(None, behind_maps())), {"percentile": 90.0}),
    Pair("dice", lambda peer: feature_fit(peer.DICE(None, W, B, 0.7)), {"percentile": 70.0}),
    # k = 1 or 2: with fewer positive features than are kept, theirs of kind b also fills zeros, whichever come first
    *(Pair("ash", lambda peer, kind=kind, share=share: peer.ASH(None, behind_maps(), variant=f"ash-{kind}",
           percentile=share).predict_feature_maps(maps(X)), {"kind": kind, "percentile": 100 * share})
      for kind, share in [("p", 0.75), ("b", 0.85), ("s", 0.75)]),
    Pair("scale", lambda peer: peer.SCALE(None, behind_maps(), percentile=0.75).predict_feature_maps(maps(X)),
         {"percentile": 75.0}),
    Pair("mahalanobis", lambda peer: feature_fit(peer.Mahalanobis(None)), {"shrinkage": 0.0},
         lambda s: 2 * (COUNT - CLASSES) * s, tolerance=1e-3),  # their covariance is a sum, and half the distance
    Pair("knn", lambda peer: feature_fit(peer.KNN(None, k=7)), {"k": 7}, np.square, tolerance=1e-4),
    Pair("vim", lambda peer: feature_fit(peer.ViM(None, 5, W, B)), {"dim": 5}, tolerance=1e-4),
    Pair("she", lambda peer: feature_fit(peer.SHE(None, linear()))),
    Pair("fdbd", lambda peer: feature_fit(peer.fDBD(None, linear()))),
    Pair("nnguide", lambda peer: feature_fit(peer.NNGuide(None, linear(), k=10)), {"k": 10}),
    Pair("nci", lambda peer: feature_fit(peer.NCI(None, linear(), alpha=0.001)), {"alpha": 0.001}),
    Pair("gram", gram, {"powers": (1, 2, 3)}, tolerance=1e-3),
    Pair("grad_norm", grad_norm),
    Pair("grad_norm", lambda peer: peer.GradNorm(linear(), lambda name: name == "weight", temperature=2.0).predict(X),
         {"temperature": 2.0}, lambda s: 2 * s),
    Pair("odin", lambda peer: peer.ODIN(linear(), eps=0.05, temperature=10.0).predict(X),
         {"epsilon": 0.05, "temperature": 10.0}, lambda s: 1 + s),
]  # fmt: skip

NOT_COMPARED = {
    "temperature_scaling": "theirs stops its search after 50 steps; its temperature is compared with ours below",
    "relative_mahalanobis": "theirs weighs both covariances by n; compared part by part below",
    "vra": "theirs clips from below, where the publication sets to zero, and has thresholds per element; formula below",
}
THEIR_NAMES = {
    "MaxSoftmax": "msp", "MaxLogit": "max_logit", "EnergyBased": "energy", "Entropy": "entropy", "GEN": "gen",
    "TemperatureScaling": "temperature_scaling", "KLMatching": "kl_matching", "OpenMax": "openmax", "ReAct": "react",
    "DICE": "dice", "ASH": "ash", "SCALE": "scale", "VRA": "vra", "Mahalanobis": "mahalanobis", "KNN": "knn",
    "RMD": "relative_mahalanobis", "ViM": "vim", "SHE": "she", "fDBD": "fdbd", "NNGuide": "nnguide", "NCI": "nci",
    "Gram": "gram", "GradNorm": "grad_norm", "ODIN": "odin",
}  # fmt: skip
THEIRS_ALONE = {
    "GMM", "GradUncertainty", "LTS", "MCD", "MCM", "MahalanobisODIN", "MultiMahalanobis", "NACUE", "PNML", "RankFeat",
    "WeightedEBO",
}  # fmt: skip


def our_scores(name: str, options: dict[str, Any]) -> np.ndarray:
    if name == "gram":  # which looks at layers
        return fitted_gram().scores(TEST)
    return on_features(HEADS[name](**options), WEIGHT, BIAS, FIT, TEST, LABELS)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.head}-{'-'.join(map(str, pair.options.values()))}")
def test_pair(pair: Pair) -> None:
    theirs = np.asarray(torch.as_tensor(pair.theirs(peers())).detach(), np.float64)
    expected = pair.ours(theirs)
    found = our_scores(pair.head, pair.options)
    assert theirs.std() > 0
    scale = np.maximum(np.abs(expected), expected.std())
    worst = float((np.abs(found - expected) / scale).max())
    assert worst < pair.tolerance, (
        f"{pair.head}: {worst:.1e}, rank correlation {stats.spearmanr(found, expected)[0]:.4f}"
    )


def test_every_namesake_is_compared_or_listed() -> None:
    peer = peers()
    classes = {name: value for name, value in vars(peer).items() if isinstance(value, type)}
    public = {name for name, value in classes.items() if hasattr(value, "predict")}
    assert public == set(THEIR_NAMES) | THEIRS_ALONE
    assert set(THEIR_NAMES.values()) == {pair.head for pair in PAIRS} | set(NOT_COMPARED)
    assert set(THEIR_NAMES.values()) <= set(HEADS)


def test_temperature_is_at_least_as_good_as_theirs() -> None:
    theirs = peers().TemperatureScaling(None).fit_logits(FIT_LOGITS, Y)
    head = HEADS["temperature_scaling"]()
    found = on_features(head, WEIGHT, BIAS, FIT, TEST, LABELS)
    ours = float(head.state()["temperature"])
    loss = [float(nn.functional.cross_entropy(FIT_LOGITS / t, Y)) for t in (ours, float(theirs.t.detach()))]
    assert loss[0] <= loss[1] + 1e-9
    expected = special.logit(1 + peers().MaxSoftmax.score(LOGITS, t=ours).numpy())
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


def test_relative_mahalanobis_part_by_part() -> None:
    """score = min_c (n - K) d_c - (n - 1) d_0, with their unscaled distances: both covariances are unbiased in ours."""
    theirs = peers().RMD(None)
    theirs.fit_features(Z, Y)
    near, far = theirs._calc_gaussian_scores(X), theirs._background_score(X)
    expected = (COUNT - CLASSES) * near.min(1).values - (COUNT - 1) * far
    found = our_scores("relative_mahalanobis", {"shrinkage": 0.0})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3 * float(expected.std()))
    published = COUNT * theirs.predict_features(X).numpy()
    assert stats.spearmanr(found, published)[0] > 0.99


def test_vra_is_the_published_form() -> None:
    low, high = np.percentile(FIT, 20), np.percentile(FIT, 95)
    shaped = np.where(low > TEST, 0, np.minimum(TEST, high)).astype(np.float64)
    expected = -special.logsumexp(shaped @ WEIGHT + BIAS, axis=1)
    found = our_scores("vra", {"low": 20.0, "high": 95.0, "raised": 0.0})
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    theirs = map_fit(peers().VRA(None, behind_maps(), lower_percentile=0.2, upper_percentile=0.95)).numpy()
    assert np.abs(theirs - expected).max() > 0.1  # which is why they are not compared
