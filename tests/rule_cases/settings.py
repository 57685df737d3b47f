"""How many examples hypothesis draws, the same ones every time; SPARSENSE_EXAMPLES asks for more."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

from rule_cases.case import EXAMPLES

RUNS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking takes minutes and the drawn sizes are small already
    suppress_health_check=list(HealthCheck),
)
