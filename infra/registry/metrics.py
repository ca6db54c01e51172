"""Names of the numbers on an attempt's run in MLflow, for those who write and those who read them."""

from __future__ import annotations

PASSED = "gate/passed"
MEAN_RETENTION = "gate/mean_retention"
LOSS = "learn/loss"


def task_metric(task: str, number: str) -> str:
    """A number of the gate's on one task; ``candidate``, for instance, is the candidate's score."""
    return f"gate/{task}/{number}"
