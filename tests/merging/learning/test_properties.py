"""Algebra that holds for any coefficients."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merging.experts.checkpoint import Checkpoint
from merging.experts.examples import CALIBRATION_SHARE, split_examples
from merging.experts.expert import Expert
from merging.models.coefficients import Coefficients
from merging.models.materialise import materialise, merged_tensor
from merging.vectors.deltas import CombinedSource, mergeable_names, source_of

KIND = "text-classifier"
numbers = st.floats(-1, 1, width=32)
few = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@few
@given(order=st.permutations([0, 1, 2]), values=st.lists(numbers, min_size=3, max_size=3))
def test_permuting_experts_permutes_columns_and_leaves_the_model_alone(
    text_base: Path, text_experts: tuple[Expert, ...], order: list[int], values: list[float]
) -> None:
    base = Checkpoint.open(text_base)
    sources = [source_of(base, expert, KIND) for expert in text_experts]
    name = "encoder.layer.1.output.dense.weight"
    straight = merged_tensor(base, sources, torch.tensor(values), name)
    permuted = merged_tensor(
        base, [sources[i] for i in order], torch.tensor([values[i] for i in order]), name
    )
    torch.testing.assert_close(straight, permuted, rtol=1e-5, atol=1e-6)


@few
@given(
    inner=st.lists(numbers, min_size=2, max_size=2), outer=st.lists(numbers, min_size=2, max_size=2)
)
def test_a_merge_of_merges_equals_its_effective_flat_merge(
    text_base: Path, text_experts: tuple[Expert, ...], inner: list[float], outer: list[float]
) -> None:
    base = Checkpoint.open(text_base)
    first, second, third = (source_of(base, expert, KIND) for expert in text_experts)
    name = "pooler.dense.weight"
    group = CombinedSource(base, [first, second], {name: torch.tensor(inner)})
    nested = merged_tensor(base, [group, third], torch.tensor(outer), name)
    flat = torch.tensor([inner[0] * outer[0], inner[1] * outer[0], outer[1]])
    torch.testing.assert_close(
        nested, merged_tensor(base, [first, second, third], flat, name), rtol=1e-4, atol=1e-5
    )


@few
@given(rows=st.lists(numbers, min_size=16, max_size=16))
def test_equal_rows_are_a_tensor_and_unequal_ones_act_on_their_row(
    text_base: Path, text_experts: tuple[Expert, ...], rows: list[float]
) -> None:
    base = Checkpoint.open(text_base)
    sources = [source_of(base, text_experts[0], KIND)]
    name = "pooler.dense.weight"
    by_row = merged_tensor(base, sources, torch.tensor([rows]), name)
    for index, value in enumerate(rows):
        whole = merged_tensor(base, sources, torch.tensor([value]), name)
        assert torch.equal(by_row[index], whole[index])


@few
@given(values=st.lists(numbers, min_size=3, max_size=3))
def test_saving_and_selecting_keep_columns(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    path = tmp_path_factory.mktemp("c") / "c.safetensors"
    made = Coefficients(("a", "b", "c"), {"x": torch.tensor(values)})
    made.save(path)
    loaded = Coefficients.load(path)
    assert loaded.digest == made.digest
    assert loaded.select(["c", "a"]).values["x"].tolist() == [
        made.values["x"][2],
        made.values["x"][0],
    ]


@few
@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=30))
def test_no_row_is_ever_on_both_sides(texts: list[str]) -> None:
    split = split_examples(pd.DataFrame({"text": texts, "label": 0}), KIND, ["only"])
    calibration, gate = set(split.calibration.keys), set(split.gate.keys)
    assert not calibration & gate
    assert len(calibration | gate) == len(set(texts))
    assert 0 < CALIBRATION_SHARE < 1


def test_a_killed_materialise_leaves_nothing_that_looks_whole(
    text_base: Path, text_experts: tuple[Expert, ...], tmp_path: Path
) -> None:
    names = mergeable_names(text_base, text_experts, KIND)
    coefficients = Coefficients.constant([e.task for e in text_experts], names, 0.3)
    broken = tmp_path / "base"
    shutil.copytree(text_base, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4000])
    with pytest.raises(Exception, match="safetensors"):
        materialise(broken, text_experts, KIND, coefficients, {}, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["base"]
