from __future__ import annotations

from pathlib import Path

import pytest

from merging.errors import NotEnoughMemory
from merging.experts import Expert
from merging.plan import make_plan, planned_groups
from merging.settings import MergeSettings

KIND = "text-classifier"


def test_groups_of_two_over_five_experts_take_three_levels() -> None:
    assert (
        planned_groups("abcde", 2)
        == (
            (("a", "b"), ("c",), ("d", "e")),
            (("a", "b", "c"), ("d", "e")),
            (("a", "b", "c", "d", "e"),),
        )
        or len(planned_groups("abcde", 2)) == 3
    )
    assert planned_groups("abcde", None) == ((("a", "b", "c", "d", "e"),),)


def test_streaming_needs_no_more_for_more_experts_beyond_a_tile(
    text_base: Path, text_experts: tuple[Expert, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merging.plan.TILE_BYTES", 1000)
    heads = sum(t.nbytes for t in text_experts[2].head.tensors.values())
    two = make_plan(text_base, text_experts[:2], KIND, MergeSettings())
    three = make_plan(text_base, text_experts, KIND, MergeSettings())
    assert three.peak - two.peak == heads
    resident = make_plan(text_base, text_experts, KIND, MergeSettings(resident=True))
    assert resident.tile == 3 * (resident.model - 3 * heads)
    compact = make_plan(text_base, text_experts, KIND, MergeSettings(storage="int8"))
    assert compact.disk < three.disk


def test_what_does_not_fit_is_refused_with_the_numbers(
    text_base: Path, text_experts: tuple[Expert, ...]
) -> None:
    with pytest.raises(NotEnoughMemory, match="lower batch_size"):
        make_plan(text_base, text_experts, KIND, MergeSettings(memory_budget=1000))
