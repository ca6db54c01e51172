"""Rollback: an earlier version becomes the deployed model again.

supermerge rollback demo            # to what was deployed before the present version
supermerge rollback demo --to 3
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from flows.delivery import mirror_may_wait
from infra.errors import Refused
from infra.notify import Notice
from infra.queue import MergeQueue
from infra.storage.promotions import Promotion, version_before
from tasks.find import read_promotions
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

    It waits for nobody, and asks MLflow for nothing: it goes by the log, commits on the entry that it
    saw there, and a merge that is under way loses.

    Args:
        family: Name of the family.
        to: A version that was deployed before; default is the one before the present.
        decided_by: Who or what decided.
        reason: Why, in words.

    Raises:
        Refused: There is nothing to go back to, or ``to`` was never deployed.
        Conflict: Another model was deployed while this one was looked at; nothing was changed.
        Corrupt: The files of the version to go back to are damaged.
    """
    queue = MergeQueue.open(family)
    entries = read_promotions(queue)
    earlier = choose_target(family, entries, to)
    model = earlier.model
    check_health(queue, model)
    newest = entries[-1]
    words = f"Rolled back from version {newest.version}"
    words += f": {reason.removesuffix('.')}." if reason else "."
    entry = commit(queue, model, newest, "rollback", decided_by, words)
    with mirror_may_wait():
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
