"""What is minimised on calibration examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from merging.settings import Objective

UNLABELLED = -100  # The target that cross_entropy leaves out.
NEEDS_LABELS: frozenset[Objective] = frozenset({"labels"})
"""Objectives that can learn nothing from an example without a label."""
NEEDS_EXPERT: frozenset[Objective] = frozenset({"experts", "both"})
"""Objectives that compare with the answers of the task's own expert."""


@dataclass(frozen=True)
class SoftLabels:
    """An expert's own answers, one row per example or per target token.

    Attributes:
        logs: Log-probabilities, fp32 [rows, classes]; or of the `tokens` and, last, of all others
            together, fp32 [rows, likeliest + 1].
        tokens: The likeliest tokens, int64 [rows, likeliest]; None where all classes are kept.
    """

    logs: Tensor
    tokens: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, likeliest: int | None = None) -> SoftLabels:
        """Of an expert's logits, [rows, classes], all of them or only the likeliest."""
        logs = log_softmax(logits.float(), -1)
        if likeliest is None or likeliest >= logs.shape[1]:
            return cls(logs)
        tokens = logs.topk(likeliest).indices
        return cls(_bucketed(logs, tokens), tokens)

    def to(self, device: torch.device) -> SoftLabels:
        """The same on a device."""
        tokens = None if self.tokens is None else self.tokens.to(device)
        return SoftLabels(self.logs.to(device), tokens)

    def take(self, rows: Tensor | slice) -> SoftLabels:
        """Some rows."""
        return SoftLabels(self.logs[rows], None if self.tokens is None else self.tokens[rows])


def objective_loss(
    objective: Objective, logits: Tensor, targets: Tensor, soft: SoftLabels | None
) -> Tensor:
    """Mean loss of a batch, a scalar.

    Args:
        objective: Which loss; "both" is the sum of "labels" and "experts".
        logits: Answers of the merged model, [rows, classes].
        targets: Class indices, int64 [rows]; UNLABELLED where there is none.
        soft: Answers of the task's own expert, for those that NEEDS_EXPERT names.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logs = log_softmax(logits, -1)
    if objective == "entropy":  # AdaMerging (Yang et al., 2024)
        return -(logs.exp() * logs).sum(-1).mean()
    loss = logits.new_zeros(())
    if objective in ("labels", "both"):
        # Where no row has a label the mean is NaN, and left out without asking the device whether.
        labelled = (targets != UNLABELLED).any()
        entropy = cross_entropy(logits, targets, ignore_index=UNLABELLED)
        loss = loss + entropy.where(labelled, loss)
    if objective in NEEDS_EXPERT:
        assert soft is not None
        ours = logs if soft.tokens is None else _bucketed(logs, soft.tokens)
        expected = soft.logs.to(ours.dtype)
        loss = loss + kl_div(ours, expected, reduction="batchmean", log_target=True)
    return loss


def _bucketed(logs: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of `tokens` and of the rest together, [rows, tokens + 1]."""
    kept = logs.gather(1, tokens)
    rest = torch.log1p(-kept.exp().sum(1, keepdim=True).clamp(max=1 - 1e-6))
    return torch.cat([kept, rest], 1)
