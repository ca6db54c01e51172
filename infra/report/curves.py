"""The learning curve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from infra.report import svg
from merging.learning.state import StepRecord

COLOURS = (
    "#1f4e8c",
    "#d07a1f",
    "#3a8f5c",
    "#b5486b",
    "#6b5fb5",
    "#7a7a2a",
    "#2a8f9e",
    "#8c5a3c",
)
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _RIGHT = 920, 300, 50, 30, 170


def learning_curve(history: Sequence[StepRecord]) -> Markup:
    """Loss of each task by step: thin on calibration examples, bold on the held-out ones."""
    # The first record is the state before learning, which has no losses yet.
    tasks = list(dict.fromkeys(task for record in history for task in record.losses))
    values = [v for r in history for v in (*r.losses.values(), *(r.held_out or {}).values())]
    top = max(values) * 1.05 or 1.0
    first, last = history[0].step, max(history[-1].step, history[0].step + 1)

    def place(step: int, loss: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - first) / (last - first)
        return x, 8 + (_HEIGHT - _BOTTOM - 8) * (1 - loss / top)

    def parts() -> Iterator[Markup]:
        for loss in _round_values(top):
            x, y = place(first, loss)
            yield svg.line(x, y, _WIDTH - _RIGHT, y, "grid")
            yield svg.text(x - 6, y + 4, f"{loss:.3g}", "tick", "end")
        for step in sorted({first, (first + last) // 2, last}):
            yield svg.text(place(step, 0)[0], _HEIGHT - 10, f"step {step}", "tick", "middle")
        for index, task in enumerate(tasks):
            colour = COLOURS[index % len(COLOURS)]
            losses = [place(r.step, r.losses[task]) for r in history if task in r.losses]
            held = [
                place(record.step, record.held_out[task])
                for record in history
                if record.held_out is not None and task in record.held_out
            ]
            yield svg.path(losses, "thin", colour)
            if held:
                yield svg.path(held, "bold", colour)
            y = 20 + 18 * index
            yield svg.rect(_WIDTH - _RIGHT + 14, y - 9, 12, 10, "", fill=colour)
            yield svg.text(_WIDTH - _RIGHT + 32, y, task, "label")

    return svg.figure(_WIDTH, _HEIGHT, parts(), "Loss by step")


def _round_values(top: float) -> list[float]:
    """Three to eight values from 0 to `top` that are easy to read."""
    magnitude = 10.0 ** math.floor(math.log10(top))
    step = next(magnitude * k for k in (0.2, 0.5, 1.0, 2.0) if top / (magnitude * k) <= 8)
    return [step * k for k in range(int(top / step) + 1)]
