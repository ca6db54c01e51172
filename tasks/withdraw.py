"""Experts that people want out of the deployed model, and candidates that nobody wants any more.

The request is the tag `merge.withdraw` on the expert's version, or that version deleted in MLflow. What is
deployed is known from the promotion log and its manifest alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task

from infra.errors import Corrupt, Unreadable
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion, find_page
from infra.registry.merged import MergedVersion
from infra.storage.manifest import MergedExpert
from infra.storage.promotions import Promotion, Recorded
from merging.errors import InvalidInput
from tasks.find import compare_with_built_on
from tasks.retry import SIDE_EFFECT
from tasks.values import Change, Deployed, Member, Withdrawal

_LOST = "cannot be merged again, and the candidate is without it."
_DELETED = "Its version was deleted in MLflow."


@task(**SIDE_EFFECT)
def find_withdrawals(queue: MergeQueue) -> tuple[Withdrawal, ...]:
    """The deployed experts that people want out."""
    newest = queue.promotions.newest()
    if newest is None:
        return ()
    try:
        manifest = queue.manifest(newest.model)
    except (Corrupt, Unreadable):  # The mirror has named it.
        return ()
    experts = queue.registry.experts.of(queue.name)
    found: list[Withdrawal] = []
    for record in manifest.experts:
        same = [expert for expert in experts if _is_same(expert, record)]
        asked = [e for e in same if e.tags.is_withdrawn and e.status == "merged"]
        if asked:
            found.append(Withdrawal(record, asked[0].tags.withdrawal, asked[0]))
        elif not same and _is_deleted(queue, record, newest):
            found.append(Withdrawal(record, _DELETED))
    return tuple(found)


@task(**SIDE_EFFECT)
def name_lost(queue: MergeQueue, deployed: Deployed) -> tuple[Withdrawal, ...]:
    """The deployed experts whose files cannot be had: a candidate has to do without them.

    Each is named on its page. A person decides whether what is deployed is given up for that candidate.
    """
    experts = queue.registry.experts
    present = experts.of(queue.name)
    found = []
    for record, why in deployed.lost.items():
        words = f"{record.ref} {_LOST} {why}"
        get_run_logger().warning(words)
        if page := find_page(record, present):
            experts.settle(page, "merged", words)
        found.append(Withdrawal(record, words, lost=True))
    for member in deployed.members:
        page = find_page(member.record, present)
        if page and page.reason.startswith(f"{member.record.ref} {_LOST}"):
            experts.settle(page, "merged", "Its files are there again.")
    return tuple(found)


@task(**SIDE_EFFECT)
def find_still_wanted(queue: MergeQueue, changes: Sequence[Change]) -> tuple[Change, ...]:
    """Those of some changes that people have not thought better of while they were merged."""
    experts = queue.registry.experts.of(queue.name)

    def is_wanted(change: Change) -> bool:
        expert = find_page(change.record, experts)
        if isinstance(change, Member):
            return expert is not None and not expert.tags.is_withdrawn
        return change.expert is None or any(
            e.tags.is_withdrawn for e in experts if _is_same(e, change.record)
        )

    return tuple(change for change in changes if is_wanted(change))


@task(**SIDE_EFFECT)
def find_taken_back(queue: MergeQueue, model: Recorded) -> str:
    """Why nobody wants a candidate any more, in words; "" where that is not so.

    Raises:
        Corrupt: A manifest is not what was recorded.
    """
    return taken_back(queue, model)


def taken_back(queue: MergeQueue, model: Recorded) -> str:
    """As :func:`find_taken_back`, for a task that asks for it."""
    # It needs torch and transformers, and nearly every sweep does without.
    from tasks.pull import is_lost

    experts = queue.registry.experts.of(queue.name)
    arrived, left = compare_with_built_on(queue, model)
    replaced: set[str] = set()
    for record in arrived:
        expert = find_page(record, experts)
        if expert is None:
            return f"{record.ref}, which is new in it, was deleted in MLflow."
        if expert.tags.is_withdrawn:
            return f"{record.ref} is new in it. {expert.tags.withdrawal}"
        if expert.status == "held":  # Such as one whose task got a newer expert.
            return f"{record.ref}, which is new in it, is held: {expert.reason}"
        replaced.add(expert.tags.replaces)
    for record in left:
        if record.task in replaced:
            continue
        same = [expert for expert in experts if _is_same(expert, record)]
        asked = any(expert.tags.is_withdrawn for expert in same)
        if same and not asked and not is_lost(queue, record):
            return f"{record.ref}, which it takes out, is not withdrawn any more."
    return ""


@task(**SIDE_EFFECT)
def drop_candidates(queue: MergeQueue) -> None:
    """Supersedes the candidates that nobody wants any more, so that nobody approves them."""
    for version in queue.registry.merged.of(queue.name):
        if version.status == "candidate" and (words := _unwanted(queue, version)):
            queue.registry.merged.settle(version, "superseded", words)


@task(**SIDE_EFFECT)
def keep_withdrawn(queue: MergeQueue, model: Recorded, words: str) -> None:
    """Ends the requests that a candidate was to carry out: the experts stay, and why."""
    _, left = compare_with_built_on(queue, model)
    for expert in queue.registry.experts.of(queue.name):
        if expert.tags.is_withdrawn and any(_is_same(expert, record) for record in left):
            queue.registry.experts.keep(expert, words)


def _unwanted(queue: MergeQueue, version: MergedVersion) -> str:
    try:
        return taken_back(queue, queue.attempts.judged(version.version, version.source)[0])
    except (Corrupt, Unreadable):  # Whoever reviews it is told.
        return ""


def _is_same(expert: ExpertVersion, record: MergedExpert) -> bool:
    """Whether a version is that expert; rebuilt from the bucket it may have another number."""
    return bool(find_page(record, [expert])) or (expert.task, expert.tags.digest) == (
        record.task,
        record.digest,
    )


def _is_deleted(queue: MergeQueue, record: MergedExpert, newest: Promotion) -> bool:
    """Whether a person deleted a deployed expert's version, and nobody has said no to that since.

    Where the deployed model is not there either, MLflow has lost more than one version; and what a person
    rolled back to is wanted as it is.
    """
    try:
        queue.registry.experts.get(record.name, record.version)
    except InvalidInput:
        merged = queue.registry.merged.of(queue.name)
        declined = {ref for v in merged if v.status == "rejected" for ref in v.tags.withdrawn}
        deploying = queue.promotions.entries()[newest.deployment - 1]
        return (
            any(version.source == newest.location for version in merged)
            and record.ref not in declined
            and deploying.action == "promote"
        )
    return False
