"""How coefficients are learned. The defaults come from benchmarks/quality.py and engine.py."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Objective = Literal["labels", "experts", "both", "entropy"]
Granularity = Literal["tensor", "row", "model"]
Storage = Literal["fp32", "bf16", "int8"]
Preprocess = Literal["none", "tsv-m", "iso-c"]


class MergeSettings(BaseModel):
    """Everything a person may choose about learning coefficients.

    Attributes:
        objective: What is minimised on calibration examples: cross-entropy to their labels (the
            paper), KL divergence to each expert's own answers, both, or the answers' entropy.
        granularity: One coefficient per expert and tensor (the paper), per output row of a matrix,
            or per expert.
        tanh: Learn w with c = tanh(w), as in the paper; else c itself.
        initial: The coefficient that a new expert starts from.
        learning_rate: Of Adam, for w.
        steps: Steps of one micro-batch per task.
        batch_size: Examples per task and step.
        calibration_size: At most so many calibration examples per task, held-out ones included.
        holdout: Share of them that only decides which state is kept.
        evaluate_every: Steps between two looks at the held-out examples.
        seed: Fixes which examples are taken and their order.
        storage: How task vectors are kept in the work folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Objective = "experts"
    granularity: Granularity = "tensor"
    tanh: bool = True
    initial: float = Field(0.3, gt=-1, lt=1)
    learning_rate: float = Field(0.02, gt=0)
    steps: int = Field(60, ge=0)
    batch_size: int = Field(16, ge=1)
    tune_heads: bool = False
    calibration_size: int = Field(128, ge=1)
    holdout: float = Field(0.2, ge=0, lt=1)
    evaluate_every: int = Field(10, ge=1)
    group_size: int | None = Field(None, ge=2)
    group_by: Literal["arrival", "similarity"] = "arrival"
    seed: int = 0
    storage: Storage = "fp32"
    memory_budget: int | None = Field(None, gt=0)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
