from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from merging.errors import NotEnoughMemory
from merging.learning.plan import Memory, make_plan, planned_groups
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet
from tests.merging.tiny import first

HOST = Memory(1 << 40)


def test_groups_of_two_over_five_experts_take_three_levels() -> None:
    levels = planned_groups("abcde", 2)
    assert [len(level) for level in levels] == [3, 2, 1]
    assert levels[-1] == (tuple("abcde"),)
    assert planned_groups("abcde", None) == ((("a", "b", "c", "d", "e"),),)


def test_streaming_needs_no_more_for_more_experts_beyond_a_tile(
    text_set: ExpertSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merging.learning.plan.TILE_BYTES", 1000)
    heads = sum(t.nbytes for t in text_set.experts[2].head.tensors.values())
    two = make_plan(first(text_set, 2), MergeSettings(), HOST)
    three = make_plan(text_set, MergeSettings(), HOST)
    assert three.peak - two.peak == heads
    resident = make_plan(text_set, MergeSettings(resident=True), HOST)
    assert resident.tile == 3 * (resident.model - 3 * heads)
    compact = make_plan(text_set, MergeSettings(storage="int8"), HOST)
    assert compact.disk < three.disk


def test_where_layers_differ_in_width_the_largest_counts(text_set: ExpertSet) -> None:
    plain = make_plan(text_set, MergeSettings(), HOST)
    width = text_set.base.config["intermediate_size"]
    config = {**text_set.base.config, "intermediate_size": [width // 2, width]}
    each = replace(text_set, base=replace(text_set.base, config=config))
    assert make_plan(each, MergeSettings(), HOST).activations == plain.activations


def test_the_plan_says_what_is_where(text_set: ExpertSet) -> None:
    streamed = make_plan(text_set, MergeSettings(), HOST)
    assert set(streamed.residence.values()) == {"host", "file"}
    assert streamed.staging == 0
    assert streamed.to_json()["peak_bytes"] == streamed.peak
    assert streamed.room == 0


def test_an_accelerator_holds_all_task_vectors_where_they_fit(text_set: ExpertSet) -> None:
    there = make_plan(text_set, MergeSettings(), Memory(1 << 40, 1 << 40))
    assert set(there.residence.values()) == {"accelerator"}
    assert (there.staging, there.room > there.tile) == (0, True)
    small = Memory(1 << 40, there.peak - 1)
    streamed = make_plan(text_set, MergeSettings(), small)
    assert streamed.residence["parameters"] == "accelerator"
    assert streamed.residence["task vectors"] == "file"
    assert streamed.room < there.tile
    on_host = make_plan(text_set, MergeSettings(resident=True), small)
    assert on_host.residence["task vectors"] == "host"
    assert on_host.tile < on_host.staging
    thrifty = make_plan(
        text_set, MergeSettings(memory_budget=there.peak - 1), Memory(1 << 40, 1 << 40)
    )
    assert thrifty.residence["task vectors"] == "file"
    with pytest.raises(NotEnoughMemory, match="memory of the host"):
        make_plan(text_set, MergeSettings(resident=True), Memory(1000, there.peak - 1))


@pytest.mark.parametrize(
    ("settings", "memory", "what"),
    [
        (MergeSettings(memory_budget=1000), HOST, "memory budget"),
        (MergeSettings(), Memory(1000), "memory of the host"),
        (MergeSettings(), Memory(1 << 40, 1000), "memory of the accelerator"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(
    text_set: ExpertSet,
    settings: MergeSettings,
    memory: Memory,
    what: str,
) -> None:
    with pytest.raises(NotEnoughMemory, match=rf"{what}: .* found 1,000\. .*lower batch_size"):
        make_plan(text_set, settings, memory)


def test_memory_is_what_this_machine_or_its_control_group_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("merging.learning.plan._CGROUP_LIMIT", limit)
    whole = Memory.of(torch.device("cpu"))
    limit.write_text("max\n")
    assert Memory.of(torch.device("cpu")) == whole
    limit.write_text("1000000\n")
    assert Memory.of(torch.device("cpu")) == Memory(1_000_000)
