"""Answers of the candidate, the champion, the experts and the base on every task's gate examples.

Each answer sheet is a function of the model's, the head's and the examples' digests, so it is
computed once and kept in the object store: on the next arrival only the new candidate is scored.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from prefect import task

from infra.queue import MergeQueue
from infra.storage.cache import sha256_tree
from infra.storage.manifest import Manifest, hash_files
from infra.storage.store import S3Uri
from merging.experts.heads import Head
from merging.gate.decision import TaskScores
from merging.models.outcomes import Outcomes
from tasks.learn import choose_device
from tasks.retry import SIDE_EFFECT
from tasks.values import Base, Build, Deployed, Member


@task(**SIDE_EFFECT)
def score_expert(queue: MergeQueue, base: Base, member: Member) -> tuple[Outcomes, Outcomes]:
    """Answers of the base with the expert's head, and of the expert itself."""
    head = member.expert.head
    return (
        _answers(queue, base, member, base.directory, base.digest, head),
        _answers(queue, base, member, member.expert.directory, member.record.digest, head),
    )


@task(**SIDE_EFFECT)
def score_build(queue: MergeQueue, build: Build, merged: Path) -> list[TaskScores]:
    """Everything the gate needs, one entry per old and new task."""
    digest = sha256_tree(hash_files(merged / "model"))
    scores = []
    for member in build.members:
        head = Head.load(merged / "heads" / member.task, member.task)
        base, expert = score_expert.fn(queue, build.base, member)
        candidate = _answers(queue, build.base, member, merged / "model", digest, head)
        scores.append(
            TaskScores(
                task=member.task,
                role="old" if member in build.kept else "new",
                base=base,
                expert=expert,
                candidate=candidate,
                champion=score_champion(queue, build.base, build.deployed, member),
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


def score_champion(
    queue: MergeQueue, base: Base, deployed: Deployed | None, member: Member
) -> Outcomes | None:
    """Answers of the deployed model; for a task that it does not hold, with the expert's head."""
    if deployed is None:
        return None
    head = member.expert.head
    if member.task in deployed.manifest.tasks:
        head = Head.load(deployed.directory / "heads" / member.task, member.task)
    digest = sha256_tree(_below(deployed.manifest, "model/"))
    return _answers(queue, base, member, deployed.directory / "model", digest, head)


def _answers(
    queue: MergeQueue, base: Base, member: Member, model: Path, digest: str, head: Head
) -> Outcomes:
    examples = member.expert.split.gate
    inputs = {"model": digest, "head": head.digest, "examples": examples.digest}
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    uri = queue.family.root / "evaluations" / f"{key}.json"
    if queue.store.exists(uri):
        return Outcomes.from_json(queue.store.read(uri).decode())
    device = choose_device(queue.family.device)
    outcomes = queue.engine.evaluate(model, head, examples, device, base=base.directory)
    queue.store.write(uri, outcomes.to_json().encode())
    return outcomes


def _below(manifest: Manifest, folder: str) -> dict[str, str]:
    return {p.removeprefix(folder): d for p, d in manifest.files.items() if p.startswith(folder)}
