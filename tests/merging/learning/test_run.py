"""Which of two states of a learning run is kept."""

from __future__ import annotations

import torch

from merging.learning.run import is_better

BASE = {"a": 1.0, "b": 1.0}
NOISE = torch.tensor([-0.2, 0.2] * 12, dtype=torch.float64)


def state(a: float, b: float) -> dict[str, torch.Tensor]:
    return {"a": a + torch.zeros_like(NOISE), "b": b + torch.zeros_like(NOISE)}


def noisy(a: float, b: float) -> dict[str, torch.Tensor]:
    return {task: loss + NOISE for task, loss in state(a, b).items()}


def test_the_worst_task_decides_where_it_changed_for_certain() -> None:
    assert is_better(state(0.7, 0.6), state(0.8, 0.1), BASE)
    assert not is_better(state(0.9, 0.1), state(0.8, 0.6), BASE)


def test_the_mean_decides_where_the_worst_task_changed_within_its_noise() -> None:
    assert is_better(noisy(0.82, 0.3), state(0.8, 0.6), BASE)
    assert not is_better(noisy(0.78, 0.7), state(0.8, 0.6), BASE)


def test_losses_count_by_what_there_is_to_gain() -> None:
    base = {"a": 10.0, "b": 1.0}  # then b is the worst task, though a has the larger losses
    assert is_better(state(2.0, 0.5), state(1.0, 0.6), base)


def test_a_single_held_out_example_is_taken_at_its_word() -> None:
    one = {task: loss[:1] for task, loss in state(0.7, 0.6).items()}
    assert is_better(one, {task: loss + 0.1 for task, loss in one.items()}, BASE)


def test_equal_states_take_the_later_one() -> None:
    assert is_better(state(0.5, 0.5), state(0.5, 0.5), BASE)
