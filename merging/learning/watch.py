"""Whether a step's numbers are finite, without waiting for each of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from merging.errors import NonFinite


class Watch:
    """Losses and gradients of one step, which have to be finite before anything follows them.

    A look at a number on an accelerator waits until everything before it is computed, and meanwhile
    the accelerator is given nothing new to do. So there all are looked at together, once a step.

    Args:
        at_once: Look at each as it comes, as where the processor itself computes.
    """

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once
        self._seen: list[tuple[str, str, Tensor]] = []

    def add(self, where: str, expected: str, numbers: Tensor) -> None:
        """Numbers to look at; `where` and `expected` are for the message of an error.

        Raises:
            NonFinite: They are not finite, and looked at once.
        """
        if not self.at_once:
            self._seen.append((where, expected, numbers))
        elif not bool(torch.isfinite(numbers).all()):
            _refuse(where, expected)

    def look(self, losses: Sequence[Tensor]) -> list[float]:
        """The step's losses as numbers, after everything that was added is known to be finite.

        Raises:
            NonFinite: Something is not; the first of it is named.
        """
        seen, self._seen = self._seen, []
        if not seen:
            return [float(loss) for loss in losses]
        every = torch.cat([numbers.flatten() for _, _, numbers in seen])
        finite = torch.isfinite(every).all().to(torch.float32)
        whole, *values = torch.stack([finite, *losses]).tolist()
        if not whole:
            for where, expected, numbers in seen:
                if not bool(torch.isfinite(numbers).all()):
                    _refuse(where, expected)
        return values


def _refuse(where: str, expected: str) -> None:
    raise NonFinite(
        where=where,
        expected=expected,
        found="NaN or infinity",
        remedy="Nothing of this step is kept; lower learning_rate or look at the examples.",
    )
