"""Learning the coefficients of a merge.

experts = ExpertSet.open(base, [open_expert(...), ...], kind)
learned = learn_coefficients(experts, MergeSettings(), work=Path("work"), device=device)
materialise(experts, learned.coefficients, learned.heads, Path("out"))
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from merging.errors import InvalidInput
from merging.experts.heads import Head
from merging.learning.group_merge import GroupMerge
from merging.learning.grouping import chunks, cosines, similarity_order
from merging.learning.plan import Memory, Plan, make_plan
from merging.learning.run import Progress
from merging.learning.state import StepRecord
from merging.models.coefficients import Coefficients
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet


@dataclass(frozen=True)
class Learned:
    """The result of learning: the state that did best on the held-out examples."""

    coefficients: Coefficients
    heads: Mapping[str, Head]
    history: tuple[StepRecord, ...]
    plan: Plan


def learn_coefficients(
    experts: ExpertSet,
    settings: MergeSettings,
    *,
    start: Coefficients | None = None,
    frozen: Collection[str] = (),
    heads: Mapping[str, Head] | None = None,
    work: Path,
    device: torch.device,
    progress: Progress | None = None,
) -> Learned:
    """Learns how much of each expert goes into each tensor.

    A run that was killed goes on from its last saved step when it is called again with the same
    arguments, on as many threads of the same kind of processor and with the same versions of torch and
    transformers. On a CPU it then gives bitwise the same result as one that was not killed. Otherwise
    it begins anew.

    Args:
        experts: What to merge; each expert has passed `check_expert`.
        settings: How to learn.
        start: Coefficients to start from, by task name; experts without a column start from
            `settings.initial`, or from 1 where there is one expert only.
        frozen: Tasks whose columns stay exactly as in `start`; they are merged as one vector.
        heads: Heads to start from in place of the experts' own.
        work: Scratch folder for task vectors, soft labels and the state of the run.
        device: Where the model runs.
        progress: Called after every step.

    Raises:
        InvalidInput: No experts, a name twice, or a frozen task without a column.
        NotEnoughMemory: The memory budget is too small.
        NonFinite: Loss or gradient became NaN or infinite.
    """
    tasks = experts.tasks
    _check(tasks, start, frozen, settings)
    memory = Memory.of(device)
    room = make_plan(experts, settings, memory).room  # refuses what does not fit, before all work
    merge = GroupMerge(experts, settings, start, work, device, room, progress)
    heads = {**experts.heads, **(heads or {})}
    arrivals = [i for i, task in enumerate(tasks) if task not in frozen]
    champion = [merge.champion_unit(frozen)] if frozen else []
    if settings.group_by == "similarity" and settings.group_size:
        cosine = cosines(experts)[np.ix_(arrivals, arrivals)]
        arrivals = [arrivals[i] for i in similarity_order(cosine)]
    units = [merge.expert_unit(experts.experts[i]) for i in arrivals]
    levels: list[tuple[tuple[str, ...], ...]] = []
    while len(units) + len(champion) > 1 or not levels:
        groups = [[units[i] for i in g] for g in chunks(len(units), settings.group_size)]
        if len(groups) == 1:  # the deployed model joins the last merge, so that it stays as it is
            groups[0] = champion + groups[0]
            champion = []
        levels.append(tuple(tuple(t for u in g for t in u.tasks) for g in groups))
        units = []
        for group in groups:
            if len(group) > 1 or len(groups) == 1:  # else there is nothing to weigh yet
                unit, heads = merge.learn(group, heads)
                group = [unit]
            units += group
    unit = units[0]
    coefficients = Coefficients(unit.tasks, unit.values, settings.preprocess).select(tasks)
    plan = make_plan(experts, settings, memory, groups=tuple(levels))
    return Learned(coefficients, heads, tuple(merge.history), plan)


def _check(
    tasks: tuple[str, ...],
    start: Coefficients | None,
    frozen: Collection[str],
    settings: MergeSettings,
) -> None:
    if (
        start
        and frozen
        and (settings.preprocess != start.preprocess or settings.preprocess == "tsv-m")
    ):
        raise InvalidInput(
            where="settings of a chain",
            expected="the deployed model's task vectors as they were when it was learned",
            found=f"preprocess {settings.preprocess!r} now and {start.preprocess!r} then, and what "
            "'tsv-m' makes of a vector changes with every new expert",
            remedy="Learn all columns again (the rung 'relearn'), or set preprocess to 'none'.",
        )
    known = set(start.tasks) if start else set()
    if not tasks or len(set(tasks)) < len(tasks) or not set(frozen) <= known:
        raise InvalidInput(
            where="experts of a merge",
            expected="at least one, each task once, and a column in `start` for every frozen one",
            found=f"tasks {list(tasks)}, frozen {sorted(frozen)}, start {sorted(known)}",
            remedy="Correct the list of experts.",
        )
