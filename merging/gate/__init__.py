"""The gate: may this candidate replace the deployed model?

Here are its values: what a family asks for and what was decided, which cost nothing to import. What
decides, `merging.gate.decision`, imports numpy, and `merging.gate.artifact`, which looks at files,
imports torch.
"""

from merging.gate.policy import GatePolicy, TaskPolicy
from merging.gate.report import Check, GateReport, Score, TaskDecision

__all__ = ["Check", "GatePolicy", "GateReport", "Score", "TaskDecision", "TaskPolicy"]
