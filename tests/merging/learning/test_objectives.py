"""Each objective is the loss that its description names, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from merging.learning.objectives import UNLABELLED, SoftLabels, objective_loss
from merging.settings import Objective

LOGITS = torch.tensor([[0.2, -1.0, 0.7], [1.5, 0.1, -0.3]])
TARGETS = torch.tensor([2, 0])
EXPERT = torch.tensor([[0.1, 0.2, 0.9], [2.0, -1.0, 0.0]])


def test_labels_is_the_mean_cross_entropy_of_the_rows_that_have_one():
    likelihoods = LOGITS.softmax(1)
    expected = -(likelihoods[0, 2].log() + likelihoods[1, 0].log()) / 2
    assert objective_loss("labels", LOGITS, TARGETS, None) == pytest.approx(float(expected))
    one = objective_loss("labels", LOGITS, torch.tensor([2, UNLABELLED]), None)
    assert one == pytest.approx(float(-likelihoods[0, 2].log()))


def test_experts_is_the_divergence_from_the_experts_answers_and_zero_for_its_own():
    theirs, ours = EXPERT.softmax(1), LOGITS.softmax(1)
    expected = (theirs * (theirs / ours).log()).sum(1).mean()
    soft = SoftLabels.of(EXPERT)
    assert objective_loss("experts", LOGITS, TARGETS, soft) == pytest.approx(float(expected))
    assert objective_loss("experts", EXPERT, TARGETS, soft) == pytest.approx(0, abs=1e-7)


def test_both_is_their_sum():
    soft = SoftLabels.of(EXPERT)
    parts = [objective_loss(name, LOGITS, TARGETS, soft) for name in ("labels", "experts")]
    assert objective_loss("both", LOGITS, TARGETS, soft) == pytest.approx(float(sum(parts)))


def test_entropy_is_largest_for_an_even_answer():
    even = objective_loss("entropy", torch.zeros(2, 3), TARGETS, None)
    assert even == pytest.approx(math.log(3))
    assert objective_loss("entropy", LOGITS, TARGETS, None) < even


def test_the_likeliest_tokens_and_the_rest_together_are_a_distribution():
    soft = SoftLabels.of(EXPERT, likeliest=2)
    assert soft.logs.shape == (2, 3)
    assert soft.logs.exp().sum(1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("objective", ["labels", "both"])
def test_a_batch_without_labels_adds_nothing_for_them(objective: Objective) -> None:
    logits = LOGITS.clone().requires_grad_()
    targets = torch.full_like(TARGETS, UNLABELLED)
    soft = SoftLabels.of(EXPERT)
    loss = objective_loss(objective, logits, targets, soft)
    expected = objective_loss("experts", LOGITS, targets, soft) if objective == "both" else 0
    assert float(loss.detach()) == pytest.approx(float(expected))
    loss.backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
