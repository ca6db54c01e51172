"""Task vectors that are changed before coefficients are learned for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.learning.learn import learn_coefficients
from merging.models.coefficients import Coefficients
from merging.models.materialise import materialise, verify
from merging.settings import MergeSettings, Preprocess
from merging.vectors.deltas import Source
from merging.vectors.expert_set import ExpertSet
from merging.vectors.preprocess import processed_sources
from tests.merging.tiny import first

MATRIX = "encoder.layer.0.attention.self.query.weight"
VECTOR = "encoder.layer.0.attention.self.query.bias"
QUICK = MergeSettings(granularity="tensor", steps=3, batch_size=8, evaluate_every=3)


def delta(source: Source, name: str) -> torch.Tensor:
    found = source.delta(name)
    assert isinstance(found, torch.Tensor)
    return found


def test_tsv_m_leaves_one_expert_as_it_is(text_set: ExpertSet) -> None:
    plain, processed = (processed_sources(first(text_set, 1), m)[0] for m in ("none", "tsv-m"))
    torch.testing.assert_close(delta(processed, MATRIX), delta(plain, MATRIX), rtol=1e-4, atol=1e-6)


def test_tsv_m_makes_experts_orthogonal(text_set: ExpertSet) -> None:
    first, second, _ = (delta(s, MATRIX) for s in processed_sources(text_set, "tsv-m"))
    assert float((first.t() @ second).abs().max()) < 1e-5
    assert float((first @ second.t()).abs().max()) < 1e-5


def test_iso_c_evens_each_experts_spectrum(text_set: ExpertSet) -> None:
    plain, even = (processed_sources(text_set, m)[1] for m in ("none", "iso-c"))
    before = torch.linalg.svdvals(delta(plain, MATRIX))
    after = torch.linalg.svdvals(delta(even, MATRIX))
    torch.testing.assert_close(after, before.mean().expand(16), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["tsv-m", "iso-c"])
def test_vectors_are_left_as_they_are(text_set: ExpertSet, method: Preprocess) -> None:
    pairs = zip(
        processed_sources(text_set, "none"),
        processed_sources(text_set, method),
        strict=True,
    )
    assert all(torch.equal(delta(a, VECTOR), delta(b, VECTOR)) for a, b in pairs)


@pytest.mark.parametrize("method", ["tsv-m", "iso-c"])
def test_the_merged_model_is_built_from_what_was_learned_on(
    text_set: ExpertSet, tmp_path: Path, method: Preprocess
) -> None:
    settings = QUICK.model_copy(update={"preprocess": method})
    device = torch.device("cpu")
    learned = learn_coefficients(text_set, settings, work=tmp_path / "work", device=device)
    merged = materialise(text_set, learned.coefficients, learned.heads, tmp_path / "out")
    verify(text_set, merged)
    loaded = Coefficients.load(merged.coefficients)
    assert loaded.preprocess == method
    base = text_set.base
    sources = processed_sources(text_set, method)
    weights = loaded.values[MATRIX]
    expected = base.read(MATRIX) + sum(
        c * delta(s, MATRIX) for c, s in zip(weights, sources, strict=True)
    )
    torch.testing.assert_close(Checkpoint.open(merged.model).read(MATRIX), expected)


def test_coefficients_of_differently_processed_vectors_are_not_the_same(
    text_set: ExpertSet,
) -> None:
    names = text_set.names
    plain = Coefficients.constant(text_set.tasks, names, 0.3)
    processed = Coefficients(plain.tasks, plain.values, "tsv-m")
    assert processed.digest != plain.digest
    assert processed.select(plain.tasks).preprocess == "tsv-m"


@pytest.mark.parametrize(("then", "now"), [("tsv-m", "tsv-m"), ("none", "iso-c")])
def test_a_chain_is_refused_where_the_old_vectors_would_change(
    text_set: ExpertSet,
    tmp_path: Path,
    then: Preprocess,
    now: Preprocess,
) -> None:
    names = text_set.names
    constant = Coefficients.constant(text_set.tasks[:2], names, 0.3)
    start = Coefficients(constant.tasks, constant.values, then)
    with pytest.raises(InvalidInput, match=f"{now!r} now and {then!r} then"):
        learn_coefficients(
            text_set,
            QUICK.model_copy(update={"preprocess": now}),
            start=start,
            frozen=start.tasks,
            work=tmp_path,
            device=torch.device("cpu"),
        )
    assert not any(tmp_path.iterdir())
