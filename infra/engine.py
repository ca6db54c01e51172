"""What takes a device and minutes, in one value: learning, answering, and asking a finished model.

A queue is opened with the real ones. A story of the queue gives its own, which know the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Most commands never use them.
    from merging.learning.learn import Learned
    from merging.models.outcomes import Outcomes


@dataclass(frozen=True)
class Engine:
    """The functions of the engine that the queue calls.

    Attributes:
        learn: As `merging.learning.learn.learn_coefficients`.
        evaluate: As `merging.models.evaluate.evaluate`.
        time_answers: As `merging.models.evaluate.time_answers`.
        check_answers: As `infra.packaging.probe.check_answers`.
    """

    learn: Callable[..., Learned]
    evaluate: Callable[..., Outcomes]
    time_answers: Callable[..., tuple[list[float], ...]]
    check_answers: Callable[[Path], None]

    @classmethod
    def real(cls) -> Engine:
        """The engine itself."""
        from infra.packaging.probe import check_answers
        from merging.learning.learn import learn_coefficients
        from merging.models.evaluate import evaluate, time_answers

        return cls(learn_coefficients, evaluate, time_answers, check_answers)
