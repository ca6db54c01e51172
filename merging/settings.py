"""How coefficients are learned. The defaults come from benchmarks/quality.py and engine.py."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Objective = Literal["labels", "experts", "both", "entropy"]
Granularity = Literal["tensor", "row", "model"]
Storage = Literal["fp32", "bf16", "int8"]
Preprocess = Literal["none", "tsv-m", "iso-c"]
WriteDtype = Literal["base", "float32", "bfloat16", "float16"]


class MergeSettings(BaseModel):
    """Everything a person may choose about learning coefficients.

    Attributes:
        objective: What is minimised on calibration examples: cross-entropy to their labels (the
            paper), KL divergence to each expert's own answers, both, or the answers' entropy.
        granularity: One coefficient per expert and tensor (the paper), per output row of a matrix,
            or per expert.
        preprocess: What is done to the task vectors of matrices before coefficients are learned for
            them: nothing, TSV-M's truncation and mutual orthogonality, or Iso-C's even spectrum.
        tanh: Learn w with c = tanh(w), as in the paper; else c itself, which may pass 1.
        balanced: Divide each task's loss by what it is on the unmerged base, so that every task has
            the same weight, however many classes it has; else losses are added as they are, as in
            the paper.
        initial: The coefficient that a new expert starts from; one that is merged alone starts from 1.
        learning_rate: Of Adam, for what is learned per tensor.
        steps: Steps of one micro-batch per task.
        batch_size: Examples per task and step.
        calibration_size: At most so many calibration examples per task, held-out ones included.
        holdout: Share of the calibration examples that only decides which state is kept.
        evaluate_every: Steps between two looks at the held-out examples.
        row_share: With rows, the share of the steps, the last ones, in which rows have numbers of
            their own.
        row_learning_rate: Of Adam, for a row's deviation from its tensor.
        row_decay: Share of that deviation that each step takes away.
        tune_heads: Learn the heads along with the coefficients.
        head_learning_rate: Of Adam, for the heads.
        head_decay: Share of a head's way from where it started that each step takes away.
        group_size: Merge at most so many at a time, level by level; without it all at once.
        group_by: Which experts come together: those that arrived together, or similar ones.
        warm_start: Learn again from the deployed coefficients instead of `initial`.
        seed: Fixes which examples are taken and their order.
        write_dtype: What the merged model is written in: each tensor in the dtype that the base has it
            in, or all parameters in one that is wider, so that no change is lost in rounding, or
            narrower. Integers and buffers stay as they are.
        storage: How task vectors are kept in the work folder; int8 has a scale per row.
        resident: Keep all task vectors in host memory; else they pass through it tile by tile. An
            accelerator with room for all of them holds them itself, either way.
        memory_budget: Bytes that the plan must stay below; without it what the machine has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Objective = "both"
    granularity: Granularity = "row"
    preprocess: Preprocess = "none"
    tanh: bool = False
    balanced: bool = True
    initial: float = Field(0.3, gt=-2, lt=2)
    learning_rate: float = Field(0.06, gt=0)
    steps: int = Field(120, ge=0)
    batch_size: int = Field(16, ge=1)
    row_share: float = Field(0.67, ge=0, le=1)
    row_learning_rate: float = Field(0.02, gt=0)
    row_decay: float = Field(0.02, ge=0, lt=1)
    tune_heads: bool = False
    head_learning_rate: float = Field(0.002, gt=0)
    head_decay: float = Field(0.01, ge=0, lt=1)
    calibration_size: int = Field(400, ge=1)
    holdout: float = Field(0.2, ge=0, lt=1)
    evaluate_every: int = Field(10, ge=1)
    group_size: int | None = Field(None, ge=2)
    group_by: Literal["arrival", "similarity"] = "arrival"
    warm_start: bool = True
    seed: int = 0
    write_dtype: WriteDtype = "base"
    storage: Storage = "fp32"
    resident: bool = False
    memory_budget: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _tanh_reaches_initial(self) -> MergeSettings:
        if self.tanh and abs(self.initial) >= 1:
            raise ValueError(f"initial: expected less than 1 with tanh, found {self.initial}")
        return self

    @property
    def tensor_steps(self) -> int:
        """Steps before rows get numbers of their own; all of them where they never do."""
        return self.steps - round(self.steps * self.row_share) * (self.granularity == "row")

    @property
    def digest(self) -> str:
        """SHA-256 of all that learning depends on."""
        content = self.model_dump_json(exclude={"write_dtype"})
        return hashlib.sha256(content.encode()).hexdigest()
