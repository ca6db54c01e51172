"""What one model answered on one task's gate examples, example by example.

The gate compares models on the same examples, so it needs the answers themselves and not a mean.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import eq
from typing import Any

import numpy as np
import numpy.typing as npt

from merging.errors import InvalidInput
from merging.jsonfile import parse_json


@dataclass(frozen=True)
class Outcomes:
    """Per-example answers of one model on one task, in the order of the gate examples.

    Attributes:
        keys: Content key of each example, unique.
        predicted: Class index, or generated text, of each example.
        targets: The right answer of each example, of the same type as `predicted`.

    Raises:
        InvalidInput: Unequal lengths, a repeated key, or a value that is not an int or a str.
    """

    keys: tuple[str, ...]
    predicted: tuple[int, ...] | tuple[str, ...]
    targets: tuple[int, ...] | tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuses outcomes that do not fit together."""
        lengths = (len(self.keys), len(self.predicted), len(self.targets))
        if len(set(lengths)) != 1:
            raise _invalid(
                "as many predictions and targets as keys",
                f"{lengths[0]} keys, {lengths[1]} predictions, {lengths[2]} targets",
            )
        repeated = [key for key, count in Counter(self.keys).items() if count > 1]
        if repeated:
            raise _invalid("every example once", f"{len(repeated)} repeated keys: {repeated[:3]}")
        kinds = {type(value) for value in (*self.predicted, *self.targets)}
        if len(kinds) > 1 or not kinds <= {int, str}:
            names = sorted(kind.__name__ for kind in kinds)
            raise _invalid("class indices (int) or texts (str) only", " and ".join(names))

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.keys)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each answer is right, bool [examples]; outer blanks of texts do not count."""
        answers = map(_plain, self.predicted)
        targets = map(_plain, self.targets)
        return np.fromiter(map(eq, answers, targets), dtype=np.bool_, count=len(self))

    @property
    def accuracy(self) -> float:
        """Share of right answers, NaN when there is no example."""
        return float(self.correct.mean()) if len(self) else float("nan")

    def take(self, indices: Sequence[int]) -> Outcomes:
        """The outcomes of the examples at `indices`, in that order."""
        return Outcomes(
            keys=tuple(self.keys[i] for i in indices),
            predicted=tuple(self.predicted[i] for i in indices),  # type: ignore[arg-type]
            targets=tuple(self.targets[i] for i in indices),  # type: ignore[arg-type]
        )

    def to_json(self) -> str:
        """All of it as JSON, which `from_json` reads."""
        return json.dumps(
            {"keys": self.keys, "predicted": self.predicted, "targets": self.targets},
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Outcomes:
        """Reads what `to_json` wrote.

        Raises:
            InvalidInput: The text is not such a document.
        """
        try:
            document: dict[str, Any] = parse_json(text)
            columns = {name: tuple(document[name]) for name in ("keys", "predicted", "targets")}
        except (ValueError, KeyError, TypeError) as error:
            raise _invalid("JSON with keys, predicted and targets", repr(error)) from error
        return cls(**columns)


def commonest_answer(outcomes: Outcomes) -> Outcomes:
    """What a model would answer that knows nothing but which right answer is the commonest."""
    counts = Counter(outcomes.targets)
    answer = min(counts, key=lambda value: (-counts[value], str(value)))
    return Outcomes(outcomes.keys, (answer,) * len(outcomes), outcomes.targets)  # type: ignore[arg-type]


def _plain(answer: int | str) -> int | str:
    return answer.strip() if isinstance(answer, str) else answer


def _invalid(expected: str, found: str) -> InvalidInput:
    return InvalidInput(
        where="outcomes of a model on gate examples",
        expected=expected,
        found=found,
        remedy="Evaluate the model again on the task's gate examples.",
    )
