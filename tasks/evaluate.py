"""Answers of the candidate, the champion, the experts and the base on every task's gate examples.

Each answer sheet is a function of the model's, the head's and the examples' digests, so it is
computed once and kept in the object store: on the next arrival only the new candidate is scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from prefect import task

from infra.queue import MergeQueue
from infra.storage.cache import sha256_tree
from infra.storage.manifest import Manifest, hash_files
from infra.storage.store import S3Uri
from merging.experts.heads import Head
from merging.gate.decision import TaskScores
from merging.models.folder import MODEL, MergedFolder
from merging.models.outcomes import Outcomes
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet
from tasks.device import choose_device
from tasks.retry import SIDE_EFFECT
from tasks.values import Base, Build, Deployed, Member


@task(**SIDE_EFFECT)
def score_expert(queue: MergeQueue, base: Base, member: Member) -> tuple[Outcomes, Outcomes]:
    """Answers of the base with the expert's head, and of the expert itself."""
    return ask_expert(queue, base, member)


@task(**SIDE_EFFECT)
def score_build(queue: MergeQueue, build: Build, merged: MergedFolder) -> list[TaskScores]:
    """Gives the gate what it decides on: one entry for each old and new task."""
    digest = sha256_tree(hash_files(merged.model))
    backbone = Backbone.open(merged.model, build.family.kind)
    scores = []
    for member in build.members:
        head = Head.load(merged.head(member.task), member.task)
        base, expert = ask_expert(queue, build.base, member)
        candidate = _ask(queue, member, head, digest, lambda: backbone)
        scores.append(
            TaskScores(
                task=member.task,
                role="old" if member in build.kept else "new",
                base=base,
                expert=expert,
                candidate=candidate,
                champion=ask_champion(queue, build.deployed, member),
                calibration=frozenset(member.expert.split.calibration.keys),
                earlier_decisions=count_decisions(queue, member, before=build),
            )
        )
    return scores


def count_decisions(queue: MergeQueue, member: Member, before: Build) -> int:
    """How many other builds were decided on a task's gate examples: a test set wears out."""
    return sum(item.path != before.key for item in queue.store.list(decisions(queue, member)))


def decisions(queue: MergeQueue, member: Member) -> S3Uri:
    """The folder with one empty object for each build that these gate examples decided on."""
    return queue.family.root / "decisions" / member.expert.split.gate.digest


def ask_expert(queue: MergeQueue, base: Base, member: Member) -> tuple[Outcomes, Outcomes]:
    """Answers of the base with an expert's head, and of the expert itself."""
    kind, expert = queue.family.kind, member.expert
    alone = ExpertSet(base.checkpoint, (expert,), kind)
    return (
        _ask(queue, member, expert.head, base.digest, lambda: Backbone.of(alone.base, kind)),
        _ask(queue, member, expert.head, member.record.digest, lambda: alone.backbone(expert.task)),
    )


def ask_champion(queue: MergeQueue, deployed: Deployed | None, member: Member) -> Outcomes | None:
    """Answers of the deployed model; for a task that it does not hold, with the expert's head."""
    if deployed is None:
        return None
    head = member.expert.head
    for name in (member.task, member.replaces):
        if name in deployed.manifest.tasks:
            head = Head.load(deployed.folder.head(name), name)
            break
    digest = sha256_tree(_below(deployed.manifest, f"{MODEL}/"))
    model = deployed.folder.model
    return _ask(queue, member, head, digest, lambda: Backbone.open(model, queue.family.kind))


def _ask(
    queue: MergeQueue,
    member: Member,
    head: Head,
    digest: str,
    backbone: Callable[[], Backbone],
) -> Outcomes:
    """Answers of a backbone, which is opened only where they are not kept under its digest yet."""
    examples = member.expert.split.gate
    inputs = {"model": digest, "head": head.digest, "examples": examples.digest}
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    uri = queue.family.root / "evaluations" / f"{key}.json"
    if queue.store.exists(uri):
        return Outcomes.from_json(queue.store.read(uri).decode())
    device = choose_device(queue.family.device)
    outcomes = queue.engine.evaluate(backbone(), head, examples, device)
    queue.store.write(uri, outcomes.to_json().encode())
    return outcomes


def _below(manifest: Manifest, folder: str) -> dict[str, str]:
    return {p.removeprefix(folder): d for p, d in manifest.files.items() if p.startswith(folder)}
