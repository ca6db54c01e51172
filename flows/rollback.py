"""Rollback: an earlier version becomes the deployed model again.

supermerge rollback demo            # to what was deployed before the present version
supermerge rollback demo --to 3
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from infra.errors import Corrupt, Refused
from infra.flowrun import one_at_a_time
from infra.notify import Notice
from infra.queue import MergeQueue
from infra.registry.merged import MergedVersion
from infra.storage.promotions import Promotion, version_before
from tasks.find import find_version, read_promotions
from tasks.mirror import repair_mirror
from tasks.notify import notify
from tasks.promote import check_health, commit
from tasks.register import supersede_candidates


@flow(name="rollback", flow_run_name="rollback {family}", persist_result=False)
def rollback(
    family: str, to: int | None = None, decided_by: str = "command", reason: str = ""
) -> Promotion:
    """Appends an entry that makes an earlier version the deployed one.

    Experts that are only in the version left behind become ``held``, so that the queue does not
    merge them straight back.

    Args:
        family: Name of the family.
        to: A version that was deployed before; default is the one before the present.
        decided_by: Who or what decided.
        reason: Why, in words.

    Raises:
        Refused: There is nothing to go back to, or ``to`` was never deployed.
        Corrupt: The files of the version to go back to are damaged.
    """
    queue = MergeQueue.open(family)
    with one_at_a_time(family):
        repair_mirror(queue)
        entries = read_promotions(queue)
        earlier = choose_target(family, entries, to)
        version = find_version(queue, earlier.version)
        check_source(version, earlier)
        check_health(queue, version)
        newest = entries[-1]
        words = f"Rolled back from version {newest.version}"
        words += f": {reason.removesuffix('.')}." if reason else "."
        entry = commit(queue, version, newest, "rollback", decided_by, words)
        supersede_candidates(queue, None, words)
        repair_mirror(queue)
        subject = f"{family} is back at version {earlier.version}"
        notify(queue.family, Notice("rolled-back", family, subject, words))
        return entry


def choose_target(family: str, entries: Sequence[Promotion], to: int | None) -> Promotion:
    """The newest entry of the version to go back to.

    Args:
        family: Name of the family.
        entries: The promotion log, oldest first.
        to: The version that was asked for; None for the one before the present.

    Raises:
        Refused: There is no such version, or it is deployed at present.
    """
    target = to if to is not None else version_before(entries)
    if target is None:
        raise Refused(
            f"Family {family!r} has no version before the present one.", "Promote another first."
        )
    by_version = {entry.version: entry for entry in entries}
    if target not in by_version or target == entries[-1].version:
        raise Refused(
            f"Version {target} cannot be gone back to: deployed until now were "
            f"{sorted(by_version)}, at present {entries[-1].version}.",
            "Choose one of the earlier ones.",
        )
    return by_version[target]


def check_source(version: MergedVersion, promotion: Promotion) -> None:
    """Compares what MLflow says of a version with what the log says.

    Raises:
        Corrupt: They differ.
    """
    recorded = promotion.location, promotion.manifest_sha256
    if (version.source, version.manifest_sha256) != recorded:
        raise Corrupt(
            where=f"version {version.version} in MLflow",
            expected=f"source and manifest digest of promotion {promotion.sequence}: "
            f"{', '.join(recorded)}",
            found=f"{version.source}, {version.manifest_sha256}",
            remedy="Restore both as that entry of the log has them.",
        )
