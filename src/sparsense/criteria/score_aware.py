"""Score-aware criteria: keep what a detection score, instead of the class loss, reacts to."""

from __future__ import annotations

from sparsense.criteria.criterion import Layouts, Saliency, Weights, criterion, moment
from sparsense.criteria.gates import gate_saliency
from sparsense.errors import InputError
from sparsense.sensitivity import SensitivityRecord

SCORES = ("energy", "max_softmax", "entropy", "raw_logit", "reconstruction")


@criterion(
    "score_fisher",
    needs=("elasticity_square",),
    advice="Before a detection head is attached: keeps every sample's score, not only the accuracy.",
)
def score_fisher(weights: Weights, record: SensitivityRecord, /) -> Saliency:
    """E[(w_j dS_i/dw_j)^2]: the mean squared first-order change of a sample's score S when weight j becomes zero.

    Ranks and thresholds of a detector live on single samples' scores, so the second moment is taken; the mean
    over samples (where changes of opposite sign cancel) would be the change of the mean score only.

    Args:
        weights: Parameter name -> weight.
        record: With the moment `elasticity_square`, recorded with a detection score as the loss.

    Returns:
        Parameter name -> saliency `>= 0`, in squared units of the score.

    Raises:
        InputError: The record is of a class loss.
    """
    refuse_class_loss("score_fisher", record)
    return {name: moment(record, "elasticity_square", name, weight) for name, weight in weights.items()}


@criterion(
    "gate_score_fisher",
    gates=("square",),
    filters=True,
    advice="The same for channels: counts what the weights of a channel do to the score together.",
)
def gate_score_fisher(weights: Weights, record: SensitivityRecord, /, *, layouts: Layouts | None = None) -> Saliency:
    """E[(dS_i/dc)^2] for a multiplier c = 1 on a channel's output, S a detection score.

    Args:
        weights: Parameter name -> weight.
        record: With the gate moment `square`, recorded with a detection score as the loss.
        layouts: How channels lie in weights; output channels first by default.

    Returns:
        Parameter name -> saliency `>= 0`; the weights of a channel are equal and sum to the channel's.

    Raises:
        InputError: The record is of a class loss.
    """
    refuse_class_loss("gate_score_fisher", record)
    return gate_saliency(weights, record, "square", layouts)


def refuse_class_loss(name: str, record: SensitivityRecord) -> None:
    """Refuse a record that was not made with a detection score."""
    if record.info.loss == "cross_entropy":
        raise InputError(
            f"criterion {name!r} needs a record of a detection score (loss one of {', '.join(SCORES)}, or a "
            "function of your own); this one is of 'cross_entropy'"
        )
