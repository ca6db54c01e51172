"""Conditions on the files of a merged model, whatever it answers."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from merging.experts.checkpoint import Checkpoint
from merging.gate.report import Check
from merging.kinds import ModelKind
from merging.safefile import Spec
from merging.settings import WriteDtype
from merging.vectors.rounding import written_specs

_AGAIN = "Build the candidate again."


def check_weights(
    base: Path,
    candidate: Path,
    champion: Path | None,
    kind: ModelKind,
    write_dtype: WriteDtype = "base",
    buffers: Collection[str] = (),
) -> tuple[Check, ...]:
    """Whether a merged backbone has the base's tensors, all finite, and is not the champion again.

    Each has the base's shape, and exactly the dtype that it was to be written in.

    Args:
        base: Checkpoint directory of the base.
        candidate: Directory of the merged backbone.
        champion: Directory of the deployed one; None where nothing is deployed.
        kind: The kind of model.
        write_dtype: What it was to be written in.
        buffers: Tensors that keep the base's dtype.
    """
    ours = Checkpoint.open(candidate)
    expected = written_specs(Checkpoint.open(base), kind, write_dtype, buffers)
    found = {name: Spec(info.shape, info.dtype) for name, info in ours.tensors.items()}
    different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    broken = [name for name in found if not bool(torch.isfinite(ours.read(name)).all())]
    checks = [
        _artifact(
            not different,
            f"The candidate has the {len(expected)} tensors of the base",
            "The candidate's tensors are not those of the base in the dtype that they were to be "
            f"written in ({_some(different)}). {_AGAIN}",
        ),
        _artifact(
            not broken,
            "Every weight is a finite number",
            f"Weights are not finite in {_some(broken)}. {_AGAIN}",
        ),
    ]
    if champion is not None:
        before = Checkpoint.open(champion)
        same = before.tensors.keys() == found.keys() and all(
            torch.equal(ours.read(name), before.read(name)) for name in found
        )
        checks.append(
            _artifact(
                not same,
                "Its weights differ from the deployed model's",
                "Its weights are exactly the deployed model's, so nothing was merged. "
                "Look at the learning curve and the coefficients of the new expert.",
            )
        )
    return tuple(checks)


def check_latency(candidate: Sequence[float], champion: Sequence[float], factor: float) -> Check:
    """Whether predictions take at most `factor` times as long as the deployed model's.

    Args:
        candidate: Seconds that repeated predictions took. Medians are compared, since they shrug off a
            busy moment.
        champion: The same of the deployed model, on the same inputs and machine, taken alternately.
        factor: Allowed ratio.
    """
    if not candidate or not champion or min(champion) <= 0:
        return _artifact(False, "", f"Latency was not measured. Measure both models. {_AGAIN}")
    ratio = statistics.median(candidate) / statistics.median(champion)
    return _artifact(
        ratio <= factor,
        f"A prediction takes {ratio:.2f} times as long as the deployed model's ({factor} allowed)",
        f"A prediction takes {ratio:.2f} times as long as the deployed model's, where {factor} is "
        "allowed. Measure on a quiet machine, or look for what slows the model down.",
    )


def _artifact(holds: bool, sentence: str, complaint: str) -> Check:
    if holds:
        return Check(name="candidate", verdict="passed", sentence=f"{sentence}.")
    return Check(name="candidate", verdict="failed", sentence=complaint)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
