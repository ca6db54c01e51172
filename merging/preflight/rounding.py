"""How much of an expert's change is rounding, or would be lost to it: said, and no reason to refuse."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from merging.errors import InvalidInput, NonFinite
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import Expert
from merging.kinds import ModelKind
from merging.settings import WriteDtype
from merging.vectors.deltas import dense_delta
from merging.vectors.expert_set import ExpertSet
from merging.vectors.rounding import Rounding, own_rounding, rounded, square, written_specs

WORTH_SAYING = 0.05  # Share of ‖τ‖ from which rounding is mentioned.


def rounding_remarks(
    base: Checkpoint, expert: Expert, kind: ModelKind, write_dtype: WriteDtype
) -> Iterator[str]:
    """A sentence where an expert is stored too coarsely, and one where the merged model would be.

    Args:
        base: The base checkpoint.
        expert: An expert that fits it.
        kind: The kind of model.
        write_dtype: What the family's merged models are written in.

    Raises:
        InvalidInput: The expert's own values do not fit into float16.
    """
    stored = {} if expert.files.is_adapter else expert.files.checkpoint.tensors
    specs = written_specs(base, kind, write_dtype)
    coarse = {
        name
        for name, info in stored.items()
        if name in specs and _spacing(info.dtype) > max(_spacing(base.tensors[name].dtype), 1e-6)
    }
    narrow = {name for name, spec in specs.items() if _spacing(spec.dtype) > 1e-6}
    if not coarse and not narrow:
        return
    source = ExpertSet(base, (expert,), kind).sources[0]
    writing, change, own = Rounding(), 0.0, 0.0
    for name, spec in specs.items():
        if not base.tensors[name].dtype.is_floating_point:
            continue
        delta = dense_delta(source.delta(name), base, name)
        if delta is None:
            continue
        change += square(delta)
        if name in coarse:
            own += own_rounding(expert.files.checkpoint.read(name), delta)
        if name in narrow:
            before = base.read(name).float()
            exact = before + delta
            try:
                writing.add(before, exact, rounded(exact, spec.dtype, name))
            except NonFinite as error:  # Here it is the expert that does not fit.
                raise InvalidInput(
                    where=name, expected=error.expected, found=error.found, remedy=error.remedy
                ) from error
    if not change:
        return
    share = (own / change) ** 0.5
    if share >= WORTH_SAYING:
        ours = _names(base.tensors[name].dtype for name in coarse)
        yield (
            f"It is stored in {_names(stored[name].dtype for name in coarse)} and its base in {ours}, so "
            f"about {min(share, 1):.0%} of its change is rounding (‖rounding‖ ÷ ‖τ‖). If it was trained "
            f"in {ours}, save it in that."
        )
    share = (writing.lost / change) ** 0.5
    if share >= WORTH_SAYING:
        yield (
            f"{share:.0%} of its change would be lost where the merged model is rounded to "
            f"{_names(specs[name].dtype for name in narrow)} (‖round(θ) − θ‖ ÷ ‖τ‖). Set write_dtype: "
            "float32 under merge in the family file to keep it."
        )


def _spacing(dtype: torch.dtype) -> float:
    """Between 1 and the next number; 0 of integers."""
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def _names(dtypes: Iterator[torch.dtype]) -> str:
    return " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes}))
