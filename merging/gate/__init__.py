"""The gate: may this candidate replace the deployed model?

`merging.gate.artifact` (conditions on the files) is apart, because it imports torch.
"""

from merging.gate.decision import TaskScores, decide, judge_expert
from merging.gate.policy import GatePolicy, TaskPolicy
from merging.gate.report import Check, GateReport, Score, TaskDecision

__all__ = [
    "Check",
    "GatePolicy",
    "GateReport",
    "Score",
    "TaskDecision",
    "TaskPolicy",
    "TaskScores",
    "decide",
    "judge_expert",
]
