from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from merging.experts.expert import open_expert
from merging.kinds import ModelKind
from merging.learning.group_merge import UPPER_START
from merging.learning.grouping import chunks, cosines, similarity_order
from merging.learning.learn import learn_coefficients
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet
from tests.merging.tiny import write_text_expert

KIND = ModelKind.TEXT_CLASSIFIER
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(5, None, [5]), (4, 4, [4]), (5, 2, [2, 2, 1]), (9, 4, [3, 3, 3]), (1, 2, [1])],
)
def test_groups_are_as_equal_as_they_can_be(count: int, size: int | None, sizes: list[int]) -> None:
    groups = chunks(count, size)
    assert sorted(map(len, groups), reverse=True) == sizes
    assert [i for group in groups for i in group] == list(range(count))


def test_grouping_with_fixed_coefficients_equals_its_effective_flat_merge(
    text_set: ExpertSet, tmp_path: Path
) -> None:
    settings = MergeSettings(granularity="tensor", steps=0, initial=0.5, group_size=2)
    learned = learn_coefficients(text_set, settings, work=tmp_path, device=CPU)
    # three experts: (0, 1) and (2) are merged first, and then the two results
    expected = torch.tensor([0.5 * UPPER_START, 0.5 * UPPER_START, 0.5])
    for value in learned.coefficients.values.values():
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert learned.plan.groups == (
        (("task-0", "task-1"), ("task-2",)),
        (("task-0", "task-1", "task-2"),),
    )


def test_any_depth_ends_in_one_matrix_in_the_experts_order(text_base: Path, tmp_path: Path) -> None:
    experts = [
        open_expert(f"t{i}", write_text_expert(text_base, tmp_path / f"e{i}", i), KIND)
        for i in range(5)
    ]
    settings = MergeSettings(
        steps=2, batch_size=2, group_size=2, group_by="similarity", granularity="row", row_share=0.5
    )
    learned = learn_coefficients(
        ExpertSet.open(text_base, experts, KIND), settings, work=tmp_path, device=CPU
    )
    assert len(learned.plan.groups) == 3
    assert learned.coefficients.tasks == ("t0", "t1", "t2", "t3", "t4")


def test_similar_task_vectors_come_side_by_side(
    text_set: ExpertSet,
) -> None:
    cosine = cosines(text_set)
    np.testing.assert_allclose(np.diag(cosine), 1, atol=1e-6)
    made_up = np.eye(4)
    made_up[0, 2] = made_up[2, 0] = made_up[1, 3] = made_up[3, 1] = 0.9
    order = similarity_order(made_up)
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset((0, 2)), frozenset((1, 3))}
