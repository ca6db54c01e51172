"""Answers of the candidate, the champion, the experts and the base on every task's gate examples.

Each answer sheet is a function of the model's, the head's and the examples' digests, so it is
computed once and kept in the object store (:mod:`infra.storage.answers`): on the next arrival only the
new candidate is scored.
"""

from __future__ import annotations

from collections.abc import Callable

from prefect import task

from infra.queue import MergeQueue
from infra.storage.answers import Sheet
from infra.storage.cache import sha256_tree
from infra.storage.manifest import hash_files
from merging.experts.heads import Head
from merging.gate.decision import TaskScores
from merging.models.folder import MergedFolder
from merging.models.outcomes import Outcomes
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet
from tasks.device import choose_device
from tasks.retry import SIDE_EFFECT
from tasks.values import Base, Build, Deployed, Member


@task(**SIDE_EFFECT)
def score_expert(queue: MergeQueue, base: Base, member: Member) -> tuple[Outcomes, Outcomes]:
    """Answers of the base with the expert's head, and of the expert itself."""
    answers = ask_expert(queue, base, member)
    queue.answers.write()
    return answers


@task(**SIDE_EFFECT)
def score_build(queue: MergeQueue, build: Build, merged: MergedFolder) -> list[TaskScores]:
    """Gives the gate what it decides on: one entry for each old and new task."""
    digest = sha256_tree(hash_files(merged.model))
    backbone = Backbone.open(merged.model, build.family.kind)
    decided = queue.decisions.by_examples()
    scores = []
    for member in build.members:
        earlier = decided.get(member.expert.split.gate.digest, set()) - {build.key}
        head = Head.load(merged.head(member.task), member.task)
        base, expert = ask_expert(queue, build.base, member)
        candidate = _ask(queue, member, head, digest, lambda: backbone, digest)
        scores.append(
            TaskScores(
                task=member.task,
                role="old" if member in build.kept else "new",
                base=base,
                expert=expert,
                candidate=candidate,
                champion=ask_champion(queue, build.deployed, member),
                calibration=frozenset(member.expert.split.calibration.keys),
                earlier_decisions=len(earlier),
            )
        )
    queue.answers.write()
    return scores


def ask_expert(queue: MergeQueue, base: Base, member: Member) -> tuple[Outcomes, Outcomes]:
    """Answers of the base with an expert's head, and of the expert itself."""
    kind, expert, digest = queue.family.kind, member.expert, member.record.digest
    alone = ExpertSet(base.checkpoint, (expert,), kind)
    return (
        _ask(
            queue, member, expert.head, base.digest, lambda: Backbone.of(alone.base, kind), digest
        ),
        _ask(queue, member, expert.head, digest, lambda: alone.backbone(expert.task), digest),
    )


def ask_champion(queue: MergeQueue, deployed: Deployed | None, member: Member) -> Outcomes | None:
    """Answers of the deployed model; for a task that it does not hold, with the expert's head."""
    if deployed is None:
        return None
    digest = deployed.manifest.model_digest
    # What only this expert asks of it is kept with the expert, so that the model's own stays as it is.
    under = digest if member.task in deployed.manifest.tasks else member.record.digest
    head = member.expert.head
    for name in (member.task, member.replaces):
        if name in deployed.manifest.tasks:
            head = Head.load(deployed.folder.head(name), name)
            break
    model = deployed.folder.model
    return _ask(queue, member, head, digest, lambda: Backbone.open(model, queue.family.kind), under)


def _ask(
    queue: MergeQueue,
    member: Member,
    head: Head,
    digest: str,
    backbone: Callable[[], Backbone],
    under: str,
) -> Outcomes:
    """Answers of a backbone, which is opened only where they are not kept under some digest yet."""
    examples = member.expert.split.gate
    sheet = Sheet(digest, head.digest, examples.digest)
    known = queue.answers.find(sheet, under)
    if known is not None:
        return known
    device = choose_device(queue.family.device)
    outcomes = queue.engine.evaluate(backbone(), head, examples, device)
    queue.answers.add(sheet, under, outcomes)
    return outcomes
