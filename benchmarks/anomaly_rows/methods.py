"""Methods: what is trained how, what scores, and which method shows what that is good for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

Options = dict[str, Any]
BETA = 10.0  # of U-Nets
TABLE_BETA, TABLE_COLUMNS = 10.0, 274  # published for a table of so many columns
PUBLISHED_BETAS = {"digits": 100.0, "mnist": 1000.0, "fashion": 100.0, "cifar10": 10.0}
PUBLISHED_BATCHES = {"mnist": 1000, "fashion": 500, "cifar10": 50, "tabular": 100}  # of latent norm
PUBLISHED_RATES = {"digits": 1e-3, "mnist": 1e-4, "fashion": 1e-4, "cifar10": 1e-2}
MEAN_OVER_NORM = {"image": 0.01, "table": 0.05}
"""A mean squared error of 0.1 over the norm of the same error: so beta keeps its share beside an amplified error."""


@dataclass(frozen=True)
class Trained:
    """A network and how it is trained; equal ones are trained once.

    Args:
        network: `conv`, `latent`, `latent unit` (the same of pixels in [0, 1]), `table`, `unit` (a table in [0, 1],
            no batch norm), `unit normed` (with), `unet`, or `unet closed` (nothing but the code is passed on).
        objective: Its name.
        options: Of the objective.
        learning_rate: Of Adam.
    """

    network: str
    objective: str
    options: Options = field(default_factory=dict)
    learning_rate: float = 1e-3

    @property
    def key(self) -> str:
        """Names it."""
        return f"{self.network} {self.objective} {sorted(self.options.items())} {self.learning_rate:g}"


@dataclass(frozen=True)
class Method:
    """How a sample is scored.

    Args:
        trained: The network.
        baseline: The method without what this one adds.
        head: Of a deployed detector; None: the scores of the objective.
        head_options: Of the head.
    """

    trained: Trained
    baseline: str | None = None
    head: str | None = None
    head_options: Options = field(default_factory=dict)


PROFILE = "reconstruction_profile"
TRAINING: Options = {"reference": "training"}  # of the head `gradcon`, as published


def methods(row: str, *, columns: int = TABLE_COLUMNS) -> dict[str, Method]:
    """The methods of one row of the table, by name; `columns` are those of a table."""
    if row in ("tabular", "series", "sound"):
        return _for_tables(TABLE_BETA * math.sqrt(columns / TABLE_COLUMNS))
    return _for_defects() if row == "industrial" else _for_images(row)


def _for_images(row: str) -> dict[str, Method]:
    plain, gradcon = Trained("conv", "reconstruction"), Trained("conv", "gradcon")
    rate, beta = PUBLISHED_RATES[row], PUBLISHED_BETAS[row]
    loose, tight = (Trained("latent", "latent_norm", {"beta": b}, rate) for b in (0.0, beta))
    unit = Trained("latent unit", "loss_amplification", {}, rate)
    share = {"beta": beta * MEAN_OVER_NORM["image"], "error": "l2", "amplify": "element"}
    return {
        "autoencoder": Method(plain),
        "amplified": Method(Trained("conv", "loss_amplification"), "autoencoder"),
        "GradCon": Method(gradcon, "autoencoder", "gradcon", TRAINING),
        "GradCon, reference of fitting data": Method(gradcon, "autoencoder", "gradcon"),
        "GradCon, error alone": Method(gradcon, "autoencoder", "reconstruction_error"),
        "profile": Method(plain, "autoencoder", PROFILE),
        "profile, GradCon network": Method(gradcon, "autoencoder", PROFILE),
        "latent norm, beta 0": Method(loose),
        "latent norm": Method(tight, "latent norm, beta 0"),
        "amplified, beta 0": Method(unit),
        "amplified, latent norm": Method(Trained("latent unit", "latent_norm", share, rate), "amplified, beta 0"),
    }


def _for_tables(beta: float) -> dict[str, Method]:
    """GradCon and amplified errors are for numbers in [0, 1] and a sigmoid, as on images: their unit is the error's.

    The norm of an error grows with the root of the number of columns, and so does beta, which stands beside it.
    """
    loose, tight = (Trained("table", "latent_norm", {"beta": each}) for each in (0.0, beta))
    share = {"beta": beta * MEAN_OVER_NORM["table"], "error": "l2", "amplify": "element"}
    gradcon, steep = Trained("unit", "gradcon"), Trained("unit normed", "latent_norm", share)
    return {
        "latent norm, beta 0": Method(loose),
        "latent norm": Method(tight, "latent norm, beta 0"),
        "profile, beta 0 network": Method(loose, "latent norm, beta 0", PROFILE),
        "unit range": Method(Trained("unit", "reconstruction")),
        "unit range, GradCon": Method(gradcon, "unit range", "gradcon", TRAINING),
        "unit range, GradCon, reference of fitting data": Method(gradcon, "unit range", "gradcon"),
        "unit range, amplified": Method(Trained("unit", "loss_amplification"), "unit range"),
        "unit range, batch norm, amplified": Method(Trained("unit normed", "loss_amplification")),
        "unit range, batch norm, amplified, latent norm": Method(steep, "unit range, batch norm, amplified"),
    }


def _for_defects() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for error in ("l2", "ssim", "ms_gms"):
        options = {"error": error} | ({"window": 11} if error == "ssim" else {})
        found[error] = Method(Trained("unet", "reconstruction", options))
        found[f"{error}, amplified"] = Method(Trained("unet", "loss_amplification", options), error)
    loose, tight = (Trained("unet closed", "latent_norm", {"beta": beta}) for beta in (0.0, BETA))
    return {
        **found,
        "profile": Method(found["l2"].trained, "l2", PROFILE),
        "latent norm, beta 0": Method(loose),
        "latent norm": Method(tight, "latent norm, beta 0"),
    }


PUBLISHED: dict[tuple[str, str], float | None] = {
    ("mnist", "GradCon"): 97.3,
    ("fashion", "GradCon"): 93.4,
    ("cifar10", "GradCon"): 66.4,
    ("ood", "energy fine-tuning"): 97.43,
    ("ood", "outlier exposure"): 95.80,
    ("ood", "GReg"): 98.12,
}
"""Mean AUROC in %, where a publication gives one; `ood`: larger networks, other auxiliary and test sets."""
PUBLISHED_FPR95: dict[str, float | None] = {"energy fine-tuning": 11.26, "outlier exposure": 21.76, "GReg": 7.93}
