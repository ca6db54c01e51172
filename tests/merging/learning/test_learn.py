from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from merging.errors import InvalidInput
from merging.learning.learn import learn_coefficients
from merging.models.coefficients import Coefficients
from merging.settings import MergeSettings, Objective
from merging.vectors.expert_set import ExpertSet
from tests.merging.tiny import first

CPU = torch.device("cpu")
FAST = MergeSettings(
    steps=10,
    row_share=0.4,
    batch_size=4,
    evaluate_every=2,
    calibration_size=24,
    learning_rate=0.05,
)


@pytest.mark.parametrize("objective", get_args(Objective))
def test_learning_lowers_the_loss_on_held_out_examples(
    text_set: ExpertSet, tmp_path: Path, objective: str
) -> None:
    settings = FAST.model_copy(update={"objective": objective, "calibration_size": 60})
    learned = learn_coefficients(text_set, settings, work=tmp_path, device=CPU)
    looks = [sum(r.held_out.values()) for r in learned.history if r.held_out]
    assert min(looks) < looks[0]


def test_an_expert_that_is_alone_starts_as_it_is(text_set: ExpertSet, tmp_path: Path) -> None:
    learned = learn_coefficients(
        first(text_set, 1),
        MergeSettings(steps=0),
        work=tmp_path,
        device=CPU,
    )
    assert all(bool((value == 1).all()) for value in learned.coefficients.values.values())


def test_the_same_seed_gives_the_same_bits(text_set: ExpertSet, tmp_path: Path) -> None:
    first, second = (
        learn_coefficients(text_set, FAST, work=tmp_path / name, device=CPU) for name in ("a", "b")
    )
    assert first.coefficients.digest == second.coefficients.digest
    assert first.history == second.history


def test_frozen_columns_stay_and_new_ones_are_learned(text_set: ExpertSet, tmp_path: Path) -> None:
    names = list(text_set.base.tensors)
    start = Coefficients.constant(("task-0", "task-1"), names, 0.75)
    learned = learn_coefficients(
        text_set,
        FAST.model_copy(update={"holdout": 0}),
        start=start,
        frozen=["task-0", "task-1"],
        work=tmp_path,
        device=CPU,
    ).coefficients
    for name, value in learned.values.items():
        assert bool((value[:2] == 0.75).all()), name
    assert any(abs(float(v[2].mean()) - FAST.initial) > 1e-3 for v in learned.values.values())


def test_rows_of_a_start_keep_still_until_rows_learn(text_set: ExpertSet, tmp_path: Path) -> None:
    base = text_set.base
    name = "encoder.layer.0.intermediate.dense.weight"
    start = Coefficients.constant(text_set.tasks, list(base.tensors), 0.3)
    rows = torch.linspace(0.1, 0.5, base.tensors[name].shape[0])
    start.values[name] = rows.repeat(len(text_set.experts), 1)

    def spread(row_share: float) -> torch.Tensor:
        settings = FAST.model_copy(update={"holdout": 0, "row_share": row_share})
        learned = learn_coefficients(
            text_set,
            settings,
            start=start,
            work=tmp_path,
            device=CPU,
        ).coefficients.values[name]
        assert abs(float(learned.mean()) - 0.3) > 1e-3
        return learned - learned.mean(1, keepdim=True)

    still = (rows - rows.mean()).expand(len(text_set.experts), -1)
    torch.testing.assert_close(spread(row_share=0), still)
    assert not torch.allclose(spread(row_share=0.5), still, atol=1e-3)


def test_a_task_twice_is_refused(text_set: ExpertSet, tmp_path: Path) -> None:
    twice = ExpertSet(text_set.base, (text_set.experts[0],) * 2, text_set.kind)
    with pytest.raises(InvalidInput, match="each task once"):
        learn_coefficients(twice, FAST, work=tmp_path, device=CPU)
