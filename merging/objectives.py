"""What is minimised on calibration examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from merging.settings import Objective

UNLABELLED = -100  # the target that cross_entropy leaves out


def objective_loss(
    objective: Objective, logits: Tensor, targets: Tensor, soft: Tensor | None
) -> Tensor:
    """Mean loss of a batch, a scalar.

    Args:
        objective: Which loss; "both" is the sum of "labels" and "experts".
        logits: Answers of the merged model, [examples or tokens, classes].
        targets: Class indices, int64 [examples or tokens]; UNLABELLED where there is none.
        soft: Log-probabilities of the task's own expert, fp32 [examples or tokens, classes]; not
            needed by "labels" and "entropy".
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if objective == "entropy":  # AdaMerging (Yang et al., 2024), eq. 6
        logs = log_softmax(logits, -1)
        return -(logs.exp() * logs).sum(-1).mean()
    loss = logits.new_zeros(())
    if objective in ("labels", "both") and bool((targets != UNLABELLED).any()):
        loss = loss + cross_entropy(logits, targets, ignore_index=UNLABELLED)
    if objective in ("experts", "both"):
        assert soft is not None
        logs = log_softmax(logits, -1)
        loss = loss + kl_div(logs, soft.to(logs.dtype), reduction="batchmean", log_target=True)
    return loss
