"""Bringing MLflow in line with the promotion log: aliases, statuses and reasons.

All of it follows from the log, so it can be done again at any time, and it mends whatever a killed
run or a person's slip left behind. What is gone from MLflow, or cannot be read, is named and gone
around: the log alone says what is deployed.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task

from infra.errors import Corrupt, Unreadable
from infra.queue import MergeQueue
from infra.registry.merged import CHAMPION, PREVIOUS, MergedVersion
from infra.storage.manifest import Manifest, MergedExpert
from infra.storage.promotions import Promotion, version_before
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
    present = {version.version for version in versions}
    aliases = {CHAMPION: newest.version, PREVIOUS: version_before(entries)}
    kept = {alias: to for alias, to in aliases.items() if to is None or to in present}
    queue.registry.merged.point(queue.name, kept)
    for alias in [alias for alias in aliases if alias not in kept]:
        words = "the alias %s cannot be set: version %d of %s was deleted in MLflow"
        get_run_logger().warning(words, alias, aliases[alias], queue.name)
    for version in versions:
        _settle_version(queue, version, entries, deployed)
    try:
        model = newest.model
        manifest = Manifest.read(queue.store, model.location, model.manifest_sha256)
    except (Corrupt, Unreadable) as error:
        get_run_logger().warning("the experts' statuses stay as they are: %s", error)
    else:
        _settle_experts(queue, manifest.experts, deployed)
    return newest


def _settle_version(
    queue: MergeQueue, version: MergedVersion, entries: Sequence[Promotion], deployed: Promotion
) -> None:
    if version.version == deployed.version:
        queue.registry.merged.settle(version, "promoted", deployed.reason)
        return
    left = [e for e in entries if e.previous == version.version != e.version]
    if not left:
        return
    by = f"by version {left[-1].version} (promotion {left[-1].sequence})."
    if left[-1].action == "rollback":
        queue.registry.merged.settle(version, "rolled-back", f"Rolled back {by}")
    else:
        queue.registry.merged.settle(version, "superseded", f"Followed {by}")


def _settle_experts(
    queue: MergeQueue, experts: Sequence[MergedExpert], deployed: Promotion
) -> None:
    contents = {(e.task, e.digest) for e in experts}
    tasks = {e.task: e.ref for e in experts}
    versions = {(e.name, e.version) for e in experts}
    for expert in queue.registry.experts.of(queue.name):
        if (expert.name, expert.version) in versions:
            if expert.status != "merged":
                reason = f"Merged in version {deployed.version}."
                queue.registry.experts.settle(expert, "merged", reason)
        elif expert.status == "merged" and (expert.task, expert.tags.digest) not in contents:
            reason = (
                f"Replaced by {tasks[expert.task]}."
                if expert.task in tasks
                else f"Not in the deployed version {deployed.version} any more: {deployed.reason} "
                f"To merge it again: supermerge release {expert.ref}"
            )
            queue.registry.experts.settle(expert, "held", reason)
