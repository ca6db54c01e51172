"""Algebra that holds for any coefficients."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merging.experts.examples import split_examples
from merging.experts.rows import CALIBRATION_SHARE
from merging.kinds import ModelKind
from merging.models.coefficients import Coefficients
from merging.models.materialise import merged_tensor, write_model
from merging.vectors.deltas import CombinedSource
from merging.vectors.expert_set import ExpertSet

numbers = st.floats(-1, 1, width=32)
few = settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@few
@given(order=st.permutations([0, 1, 2]), values=st.lists(numbers, min_size=3, max_size=3))
def test_permuting_experts_permutes_columns_and_leaves_the_model_alone(
    text_set: ExpertSet, order: list[int], values: list[float]
) -> None:
    base, sources = text_set.base, text_set.sources
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
    text_set: ExpertSet, inner: list[float], outer: list[float]
) -> None:
    base = text_set.base
    first, second, third = text_set.sources
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
    text_set: ExpertSet, rows: list[float]
) -> None:
    base, sources = text_set.base, text_set.sources[:1]
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
@given(texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=30))
def test_no_row_is_ever_on_both_sides(texts: list[str]) -> None:
    split = split_examples(
        pd.DataFrame({"text": texts, "label": 0}), ModelKind.TEXT_CLASSIFIER, ["only"]
    )
    calibration, gate = set(split.calibration.keys), set(split.gate.keys)
    assert not calibration & gate
    assert len(calibration | gate) == len(set(texts))
    assert 0 < CALIBRATION_SHARE < 1


class Killed(Exception):
    pass


def test_a_killed_materialise_leaves_nothing_that_looks_whole(
    text_set: ExpertSet, tmp_path: Path
) -> None:
    def merged(name: str) -> torch.Tensor:
        if name == text_set.names[-1]:
            raise Killed
        return text_set.base.read(name)

    with pytest.raises(Killed):
        write_model(text_set, merged, text_set.heads, tmp_path / "out")
    assert not any(tmp_path.iterdir())
