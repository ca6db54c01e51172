"""Bringing MLflow in line with the promotion log: aliases, statuses and reasons.

All of it follows from the log, so it can be done again at any time, and it mends whatever a killed
run or a person's slip left behind. What is gone from MLflow, or cannot be read, is named and gone
around: the log alone says what is deployed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect import get_run_logger, task

from infra.errors import Corrupt, Unreadable
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion, find_page
from infra.registry.merged import CHAMPION, PREVIOUS, MergedVersion, find_version
from infra.registry.tags import ExpertStatus, MergedStatus
from infra.storage.manifest import Manifest
from infra.storage.promotions import Promotion, Recorded, model_before
from tasks.retry import SIDE_EFFECT


@task(**SIDE_EFFECT)
def repair_mirror(queue: MergeQueue) -> Promotion | None:
    """Makes aliases and tags say what the promotion log says; returns its newest entry."""
    entries = queue.promotions.entries()
    if not entries:
        return None
    newest = entries[-1]
    deployed = entries[newest.deployment - 1]
    versions = queue.registry.merged.of(queue.name)
    _point(queue, entries, versions)
    for version, status, reason in versions_by_log(versions, entries):
        queue.registry.merged.settle(version, status, reason)
    try:
        manifest = queue.manifest(newest.model)
    except (Corrupt, Unreadable) as error:
        get_run_logger().warning("the experts' statuses stay as they are: %s", error)
    else:
        experts = queue.registry.experts.of(queue.name)
        for expert, became, reason in experts_by_log(experts, manifest, deployed):
            if expert.status == "withdrawn" and deployed.action == "rollback":
                queue.registry.experts.keep(expert, reason)
            else:
                queue.registry.experts.settle(expert, became, reason)
    return newest


def _point(
    queue: MergeQueue, entries: Sequence[Promotion], versions: Sequence[MergedVersion]
) -> None:
    wanted: dict[str, int | None] = {}
    for alias, model in models_by_alias(entries).items():
        version = find_version(model, versions) if model else None
        if version or not model:
            wanted[alias] = version.version if version else None
            continue
        words = "the alias %s cannot be set: version %d of %s is gone from MLflow"
        get_run_logger().warning(words, alias, model.version, queue.name)
    if not versions:
        words = "MLflow has no version of %s; where its database was lost: supermerge rebuild %s"
        get_run_logger().warning(words, queue.name, queue.name)
    queue.registry.merged.point(queue.name, wanted)


def models_by_alias(entries: Sequence[Promotion]) -> dict[str, Recorded | None]:
    """What each alias has to point to; None where it has to be absent."""
    return {CHAMPION: entries[-1].model, PREVIOUS: model_before(entries)}


def versions_by_log(
    versions: Sequence[MergedVersion], entries: Sequence[Promotion]
) -> Iterator[tuple[MergedVersion, MergedStatus, str]]:
    """Status and reason that the log gives each version in MLflow that was ever deployed."""
    by_place = {entry.location: entry.model for entry in entries}
    for version in versions:
        model = by_place.get(version.source)
        if model and find_version(model, versions) == version:
            yield version, *standing(model, entries)


def standing(model: Recorded, entries: Sequence[Promotion]) -> tuple[MergedStatus, str]:
    """Status and reason that the log gives a model that was deployed at some time."""
    last = max(n for n, e in enumerate(entries) if e.manifest_sha256 == model.manifest_sha256)
    if last == len(entries) - 1:
        return "promoted", entries[entries[last].deployment - 1].reason
    after = entries[last + 1]
    by = f"by version {after.version} (promotion {after.sequence})."
    if after.action == "rollback":
        return "rolled-back", f"Rolled back {by}"
    return "superseded", f"Followed {by}"


def experts_by_log(
    experts: Sequence[ExpertVersion], manifest: Manifest, deployed: Promotion
) -> Iterator[tuple[ExpertVersion, ExpertStatus, str]]:
    """Status and reason of each expert in MLflow that are others by the deployed model."""
    pages = [find_page(record, experts) for record in manifest.experts]
    merged = {page.ref for page in pages if page}
    contents = {(e.task, e.digest) for e in manifest.experts}
    tasks = {e.task: e.ref for e in manifest.experts}
    tasks |= {page.tags.replaces: page.ref for page in pages if page and page.tags.replaces}
    for expert in experts:
        if expert.ref in merged:
            if expert.status != "merged":
                yield expert, "merged", f"Merged in version {deployed.version}."
        elif expert.status == "merged" and (expert.task, expert.tags.digest) not in contents:
            if expert.tags.is_withdrawn:
                yield expert, "withdrawn", expert.tags.withdrawal
                continue
            reason = (
                f"Replaced by {tasks[expert.task]}."
                if expert.task in tasks
                else f"Not in the deployed version {deployed.version} any more: {deployed.reason} "
                f"To merge it again: supermerge release {expert.ref}"
            )
            yield expert, "held", reason
