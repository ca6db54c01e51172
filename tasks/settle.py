"""Writing down in MLflow what became of an expert or a candidate, and why."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task

from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion, find_page
from infra.registry.merged import MergedVersion
from infra.registry.tags import ExpertStatus, MergedStatus
from tasks.retry import SIDE_EFFECT
from tasks.values import Change, Member, Withdrawal


@task(**SIDE_EFFECT)
def settle_expert(
    queue: MergeQueue, expert: ExpertVersion, status: ExpertStatus, reason: str
) -> None:
    """Sets what became of an expert, and why."""
    queue.registry.experts.settle(expert, status, reason)


@task(**SIDE_EFFECT)
def settle_changes(
    queue: MergeQueue,
    changes: Sequence[Change],
    status: ExpertStatus,
    reason: str,
    report: str = "",
) -> bool:
    """Sets what became of the changes of a build, why, and where the report is.

    An expert that was to be taken out stays as it is; unless it goes on, the request is ended.

    Returns:
        Whether that is news for any of them.
    """
    experts = queue.registry.experts
    present = experts.of(queue.name)
    news = False
    for change in changes:
        # One that was deleted in MLflow meanwhile has no page on which anything could be written.
        if not (expert := find_page(change.record, present)):
            continue
        if isinstance(change, Withdrawal) and change.lost:  # Its page says why.
            continue
        if isinstance(change, Member):
            news |= experts.settle(expert, status, reason, report)
        elif status == "merging":
            news |= experts.settle(expert, "merged", reason, report)
        else:
            news |= experts.keep(expert, reason)
    return news


@task(**SIDE_EFFECT)
def settle_version(
    queue: MergeQueue, version: MergedVersion, status: MergedStatus, reason: str
) -> None:
    """Sets what became of a merged version, and why."""
    queue.registry.merged.settle(version, status, reason)


@task(**SIDE_EFFECT)
def record_review(queue: MergeQueue, version: MergedVersion, words: str, *, refused: bool) -> None:
    """Writes on a candidate what came of its review."""
    queue.registry.merged.record_review(version, words, refused=refused)


@task(**SIDE_EFFECT)
def disown_review(queue: MergeQueue, version: MergedVersion) -> MergedVersion:
    """Where a decision was changed since, it is not that of the person who is named beside it."""
    if not version.tags.is_anothers:
        return version
    return queue.registry.merged.disown(version)
