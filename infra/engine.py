"""What takes a device and minutes, in one value: proving, learning, answering, asking a finished model.

A queue is opened with the real ones. A story of the queue gives its own, which know the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Most commands never use them.
    from merging.learning.learn import Learned
    from merging.models.outcomes import Outcomes
    from merging.preflight.mismatch import Mismatch


@dataclass(frozen=True)
class Engine:
    """The functions of the engine that the queue calls.

    Attributes:
        learn: As `merging.learning.learn.learn_coefficients`.
        evaluate: As `merging.models.evaluate.evaluate`.
        time_answers: As `merging.models.evaluate.time_answers`.
        prove: As `merging.preflight.proof.prove`.
        check_answers: As `infra.packaging.probe.check_answers`.
    """

    learn: Callable[..., Learned]
    evaluate: Callable[..., Outcomes]
    time_answers: Callable[..., tuple[list[float], ...]]
    prove: Callable[..., tuple[Mismatch, ...]]
    check_answers: Callable[[Path], None]

    @classmethod
    def real(cls) -> Engine:
        """The engine itself, each part of which is imported when it is first called."""
        return cls(
            learn=_late("merging.learning.learn", "learn_coefficients"),
            evaluate=_late("merging.models.evaluate", "evaluate"),
            time_answers=_late("merging.models.evaluate", "time_answers"),
            prove=_late("merging.preflight.proof", "prove"),
            check_answers=_late("infra.packaging.probe", "check_answers"),
        )


def _late(module: str, name: str) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        return getattr(import_module(module), name)(*arguments, **named)

    return call
