"""Training-free merges against examples worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merging.baselines.baseline import ALL_METHODS, baseline, choose_scale, write_baseline
from merging.baselines.linear_systems import Moments, conjugate_gradient, mats_layer, regmean_layer
from merging.baselines.training_free import (
    dare,
    iso_c_tensor,
    ties_tensor,
    tsv_m_tensors,
)
from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.vectors.expert_set import ExpertSet
from tests.merging.tiny import first


def test_ties_by_hand() -> None:
    stack = torch.tensor([[3.0, 0.1, -2.0, 1.0], [1.0, 4.0, 5.0, -3.0]])
    # trimmed below (1.5, 0.5): [3, 0, -2, 0], [1, 4, 5, -3]; signs of the sums: + + + -
    found = ties_tensor(stack, torch.tensor([1.5, 0.5]))
    torch.testing.assert_close(found, torch.tensor([2.0, 4.0, 5.0, -3.0]))


def test_dare_keeps_a_tenth_and_its_expectation(text_set: ExpertSet) -> None:
    experts = first(text_set, 1)
    name = "embeddings.word_embeddings.weight"
    found = dare(experts)[name]
    whole = dict(experts.stacks())[name][0]
    kept = found != 0
    assert 0.05 < float(kept.float().mean()) < 0.15
    torch.testing.assert_close(found[kept], whole[kept] * 10)


def test_tsv_m_keeps_orthogonal_experts_as_they_are() -> None:
    first, second = torch.zeros(4, 4), torch.zeros(4, 4)
    first[0, 0], first[1, 1], second[2, 2], second[3, 3] = 3.0, 2.0, 5.0, 1.0
    torch.testing.assert_close(
        tsv_m_tensors(torch.stack([first, second])), torch.stack([first, second])
    )


def test_iso_c_flattens_the_spectrum() -> None:
    found = iso_c_tensor(torch.diag(torch.tensor([3.0, 1.0])))
    torch.testing.assert_close(found, 2 * torch.eye(2))


def test_regmean_by_hand() -> None:
    # one input dimension each: the weight follows whoever sees that dimension
    deltas = torch.tensor([[[1.0, 1.0]], [[3.0, 3.0]]])
    one = torch.ones(1, 1, dtype=torch.float64)
    first = Moments(torch.diag(torch.tensor([3.0, 0.0], dtype=torch.float64)), one)
    second = Moments(torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)), one)
    expected = torch.tensor([[(3 * 1 + 1 * 3) / 4, 3.0]])
    torch.testing.assert_close(regmean_layer(deltas, [first, second]), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(mats_layer(deltas, [first, second]), expected, rtol=1e-4, atol=0)


def test_conjugate_gradient_solves_a_system() -> None:
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    target = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = conjugate_gradient(lambda x: matrix @ x, target, torch.zeros_like(target), 2)
    torch.testing.assert_close(found, torch.tensor([1 / 11, 7 / 11], dtype=torch.float64))


def test_mats_solves_its_kronecker_system() -> None:
    torch.manual_seed(0)

    def moment(size: int) -> torch.Tensor:
        x = torch.randn(20, size, dtype=torch.float64)
        return x.t() @ x / 20

    deltas = torch.randn(3, 4, 5)
    moments = [Moments(moment(5), moment(4)) for _ in range(3)]
    found = mats_layer(deltas, moments, steps=200).double()
    left = sum(m.gradients @ found @ m.inputs for m in moments)
    right = sum(m.gradients @ d.double() @ m.inputs for d, m in zip(deltas, moments, strict=True))
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_merging_one_expert_with_itself_gives_that_direction(
    text_set: ExpertSet, method: str
) -> None:
    alone = first(text_set, 1)
    found = baseline(alone, method)
    name = "encoder.layer.0.attention.self.query.weight"
    delta = dict(alone.stacks())[name][0]
    cosine = torch.nn.functional.cosine_similarity(found[name].flatten(), delta.flatten(), dim=0)
    assert float(cosine) > {"dare": 0.2, "ties": 0.6, "iso-c": 0.5}.get(method, 0.999)


def test_a_baseline_becomes_a_model(text_set: ExpertSet, tmp_path: Path) -> None:
    delta = baseline(text_set, "task-arithmetic")
    device = torch.device("cpu")
    scale = choose_scale(text_set, delta, scales=(0.0, 0.4), examples=20, device=device)
    assert scale in (0.0, 0.4)
    write_baseline(text_set, delta, 0.4, tmp_path / "out")
    name = "pooler.dense.weight"
    merged = Checkpoint.open(tmp_path / "out/model").read(name)
    torch.testing.assert_close(merged, text_set.base.read(name) + 0.4 * delta[name])


def test_an_unknown_method_is_refused(text_set: ExpertSet) -> None:
    with pytest.raises(InvalidInput, match="tsv-m"):
        baseline(text_set, "magic")
