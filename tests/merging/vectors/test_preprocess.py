"""Task vectors that are changed before coefficients are learned for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import Expert
from merging.learning.learn import learn_coefficients
from merging.models.coefficients import Coefficients
from merging.models.materialise import materialise, verify
from merging.settings import MergeSettings, Preprocess
from merging.vectors.deltas import Source, mergeable_names
from merging.vectors.preprocess import open_sources

KIND = "text-classifier"
MATRIX = "encoder.layer.0.attention.self.query.weight"
VECTOR = "encoder.layer.0.attention.self.query.bias"
QUICK = MergeSettings(granularity="tensor", steps=3, batch_size=8, evaluate_every=3)


def opened(base: Path, experts: tuple[Expert, ...], method: Preprocess) -> list[Source]:
    return open_sources(Checkpoint.open(base), experts, KIND, method)


def delta(source: Source, name: str) -> torch.Tensor:
    found = source.delta(name)
    assert isinstance(found, torch.Tensor)
    return found


def test_tsv_m_leaves_one_expert_as_it_is(
    text_base: Path, text_experts: tuple[Expert, ...]
) -> None:
    plain, processed = (opened(text_base, text_experts[:1], m)[0] for m in ("none", "tsv-m"))
    torch.testing.assert_close(delta(processed, MATRIX), delta(plain, MATRIX), rtol=1e-4, atol=1e-6)


def test_tsv_m_makes_experts_orthogonal(text_base: Path, text_experts: tuple[Expert, ...]) -> None:
    first, second, _ = (delta(s, MATRIX) for s in opened(text_base, text_experts, "tsv-m"))
    assert float((first.t() @ second).abs().max()) < 1e-5
    assert float((first @ second.t()).abs().max()) < 1e-5


def test_iso_c_evens_each_experts_spectrum(
    text_base: Path, text_experts: tuple[Expert, ...]
) -> None:
    plain, even = (opened(text_base, text_experts, m)[1] for m in ("none", "iso-c"))
    before = torch.linalg.svdvals(delta(plain, MATRIX))
    after = torch.linalg.svdvals(delta(even, MATRIX))
    torch.testing.assert_close(after, before.mean().expand(16), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["tsv-m", "iso-c"])
def test_vectors_are_left_as_they_are(
    text_base: Path, text_experts: tuple[Expert, ...], method: Preprocess
) -> None:
    pairs = zip(
        opened(text_base, text_experts, "none"),
        opened(text_base, text_experts, method),
        strict=True,
    )
    assert all(torch.equal(delta(a, VECTOR), delta(b, VECTOR)) for a, b in pairs)


@pytest.mark.parametrize("method", ["tsv-m", "iso-c"])
def test_the_merged_model_is_built_from_what_was_learned_on(
    text_base: Path, text_experts: tuple[Expert, ...], tmp_path: Path, method: Preprocess
) -> None:
    settings = QUICK.model_copy(update={"preprocess": method})
    device = torch.device("cpu")
    learned = learn_coefficients(
        text_base, text_experts, KIND, settings, work=tmp_path / "work", device=device
    )
    out = tmp_path / "out"
    materialise(text_base, text_experts, KIND, learned.coefficients, learned.heads, out)
    verify(text_base, text_experts, KIND, out)
    loaded = Coefficients.load(out / "coefficients.safetensors")
    assert loaded.preprocess == method
    base = Checkpoint.open(text_base)
    sources = opened(text_base, text_experts, method)
    weights = loaded.values[MATRIX]
    expected = base.read(MATRIX) + sum(
        c * delta(s, MATRIX) for c, s in zip(weights, sources, strict=True)
    )
    torch.testing.assert_close(Checkpoint.open(out / "model").read(MATRIX), expected)


def test_coefficients_of_differently_processed_vectors_are_not_the_same(
    text_base: Path, text_experts: tuple[Expert, ...]
) -> None:
    names = mergeable_names(text_base, text_experts, KIND)
    plain = Coefficients.constant([e.task for e in text_experts], names, 0.3)
    processed = Coefficients(plain.tasks, plain.values, "tsv-m")
    assert processed.digest != plain.digest
    assert processed.select(plain.tasks).preprocess == "tsv-m"


@pytest.mark.parametrize(("then", "now"), [("tsv-m", "tsv-m"), ("none", "iso-c")])
def test_a_chain_is_refused_where_the_old_vectors_would_change(
    text_base: Path,
    text_experts: tuple[Expert, ...],
    tmp_path: Path,
    then: Preprocess,
    now: Preprocess,
) -> None:
    names = mergeable_names(text_base, text_experts, KIND)
    constant = Coefficients.constant([e.task for e in text_experts[:2]], names, 0.3)
    start = Coefficients(constant.tasks, constant.values, then)
    with pytest.raises(InvalidInput, match=f"{now!r} now and {then!r} then"):
        learn_coefficients(
            text_base,
            text_experts,
            KIND,
            QUICK.model_copy(update={"preprocess": now}),
            start=start,
            frozen=start.tasks,
            work=tmp_path,
            device=torch.device("cpu"),
        )
    assert not any(tmp_path.iterdir())
