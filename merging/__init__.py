"""The merging engine: checkpoints, task vectors, coefficients, learning, evaluation, statistics.

Pure torch. Nothing here knows of Prefect, MLflow, S3 or Great Expectations, so it can be used on
its own in a notebook or another pipeline. The names below are its face; each is imported from its
room when it is first asked for, so that settings and the gate's decision come without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from merging.experts.checkpoint import Checkpoint
    from merging.experts.expert import ExpertFiles, open_expert
    from merging.kinds import ModelKind
    from merging.learning.learn import learn_coefficients
    from merging.learning.plan import Memory, make_plan
    from merging.models.coefficients import Coefficients
    from merging.models.evaluate import evaluate
    from merging.models.folder import MergedFolder
    from merging.models.materialise import materialise, verify
    from merging.preflight.expert import check_expert
    from merging.settings import MergeSettings
    from merging.vectors.backbone import Backbone
    from merging.vectors.expert_set import ExpertSet

_ROOMS = {
    "Backbone": "vectors.backbone",
    "Checkpoint": "experts.checkpoint",
    "Coefficients": "models.coefficients",
    "ExpertFiles": "experts.expert",
    "ExpertSet": "vectors.expert_set",
    "Memory": "learning.plan",
    "MergeSettings": "settings",
    "MergedFolder": "models.folder",
    "ModelKind": "kinds",
    "check_expert": "preflight.expert",
    "evaluate": "models.evaluate",
    "learn_coefficients": "learning.learn",
    "make_plan": "learning.plan",
    "materialise": "models.materialise",
    "open_expert": "experts.expert",
    "verify": "models.materialise",
}
__all__ = [
    "Backbone",
    "Checkpoint",
    "Coefficients",
    "ExpertFiles",
    "ExpertSet",
    "Memory",
    "MergeSettings",
    "MergedFolder",
    "ModelKind",
    "check_expert",
    "evaluate",
    "learn_coefficients",
    "make_plan",
    "materialise",
    "open_expert",
    "verify",
]


def __getattr__(name: str) -> Any:
    """A name of the face, from its room."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """The face, for completion."""
    return sorted([*globals(), *__all__])
