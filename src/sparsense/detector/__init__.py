"""From a forward graph and a head to one calibrated file."""

from sparsense.detector.attach import attach_to_file
from sparsense.detector.close import calibrated, p_value
from sparsense.detector.file import PARITY_KEY, parity_inputs, verify, write_detector
from sparsense.detector.fit import Progress, Scored, fit_head, silent
from sparsense.detector.groups import group_scores

__all__ = [
    "PARITY_KEY",
    "Progress",
    "Scored",
    "attach_to_file",
    "calibrated",
    "fit_head",
    "group_scores",
    "p_value",
    "parity_inputs",
    "silent",
    "verify",
    "write_detector",
]
