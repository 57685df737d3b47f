"""From a forward graph and a head to one calibrated file."""

from sparsense.detector.attach import AttachSettings, attach_to_file
from sparsense.detector.close import calibrated, p_value
from sparsense.detector.explain import check_explanation, explained
from sparsense.detector.file import PARITY_KEY, parity_inputs, verify, write_detector
from sparsense.detector.fit import HeldOut, Progress, Scored, check_head, fit_head, silent, try_head
from sparsense.detector.groups import group_scores
from sparsense.detector.recalibrate import recalibrate

__all__ = [
    "PARITY_KEY",
    "AttachSettings",
    "HeldOut",
    "Progress",
    "Scored",
    "attach_to_file",
    "calibrated",
    "check_explanation",
    "check_head",
    "explained",
    "fit_head",
    "group_scores",
    "p_value",
    "parity_inputs",
    "recalibrate",
    "silent",
    "try_head",
    "verify",
    "write_detector",
]
