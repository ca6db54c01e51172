"""Rollback: an earlier version becomes the deployed model again.

supermerge rollback demo            # to what was deployed before the present version
supermerge rollback demo --to 3
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prefect import flow

from flows.delivery import mirror_may_wait
from infra.errors import Conflict, Corrupt, Refused, Unreadable
from infra.faults import in_words
from infra.queue import MergeQueue
from infra.storage.promotions import Promotion, Recorded, model_before
from tasks.find import read_promotions
from tasks.mirror import repair_mirror
from tasks.notify import tell_of_log
from tasks.promote import check_health, commit
from tasks.register import supersede_candidates

_TRIES = 20  # Others who may commit at the same moment before one is told to try again.


@flow(name="rollback", flow_run_name="rollback {family}", persist_result=False)
@in_words()
def rollback(
    family: str,
    to: int | None = None,
    decided_by: str = "command",
    reason: str = "",
    away_from: int | None = None,
) -> Promotion:
    """Appends an entry that makes an earlier version the deployed one.

    Experts that are only in the version left behind become ``held``, so that the queue does not
    merge them straight back.

    It waits for nobody, and asks MLflow for nothing: it goes by the log, commits on the entry that it
    saw there, and a merge that is under way loses. Without a target it means "away from what was
    deployed when I asked": where another model was deployed since, it changes nothing and says so.

    Args:
        family: Name of the family.
        to: A version that was deployed before; default is the one before the present.
        decided_by: Who or what decided.
        reason: Why, in words.
        away_from: Number of the promotion that was the newest when it was asked for; default is the
            one that is the newest now.

    Raises:
        Refused: There is nothing to go back to, ``to`` was never deployed, or another model was
            deployed since it was asked for.
        Conflict: Others were faster again and again; nothing was changed.
        Corrupt: The files of the version to go back to are damaged.
    """
    queue = MergeQueue.open(family)
    entries = read_promotions(queue)
    asked = [entry for entry in entries if away_from is None or entry.sequence <= away_from]
    model = choose_target(family, asked if to is None else entries, to)
    if to is None and asked[-1].deployment != entries[-1].deployment:
        raise overtaken(family, asked[-1], entries[-1], model)
    with what_else_there_is(family, entries, model):
        check_health(queue, model)
    entry = commit_rollback(queue, model, entries, to, decided_by, reason)
    with mirror_may_wait():
        supersede_candidates(queue, None, entry.reason)
        repair_mirror(queue)
    tell_of_log(queue, entry, entry.sequence - 1)
    return entry


def commit_rollback(
    queue: MergeQueue,
    model: Recorded,
    entries: Sequence[Promotion],
    to: int | None,
    decided_by: str,
    reason: str,
) -> Promotion:
    """Commits on the newest entry, and again where somebody else was faster and it still makes sense.

    Raises:
        Refused: Another model was deployed and no target was given, or the target is deployed now.
        Conflict: Others were faster each time.
    """
    for _ in range(_TRIES):
        newest = entries[-1]
        words = f"Rolled back from version {newest.version}"
        words += f": {reason.removesuffix('.')}." if reason else "."
        try:
            return commit(queue, model, newest, "rollback", decided_by, words)
        except Conflict as error:
            lost, entries = error, read_promotions(queue)
            # A freeze or a thaw deploys nothing else.
            if to is None and entries[-1].deployment != newest.deployment:
                raise overtaken(queue.name, newest, entries[-1], model) from error
            choose_target(queue.name, entries, to)
    raise lost


def choose_target(family: str, entries: Sequence[Promotion], to: int | None) -> Recorded:
    """The model to go back to.

    Args:
        family: Name of the family.
        entries: The promotion log, oldest first.
        to: The version that was asked for; None for the one before the present.

    Raises:
        Refused: There is no such version, or it is deployed at present.
    """
    if not entries:
        raise Refused(f"Nothing of family {family!r} is deployed yet.", "Register an expert first.")
    if to is None:
        if before := model_before(entries):
            return before
        raise Refused(
            f"Family {family!r} has no version before the present one.", "Promote another first."
        )
    by_version = {entry.version: entry.model for entry in entries}
    if to not in by_version or by_version[to] == entries[-1].model:
        raise Refused(
            f"Version {to} cannot be gone back to: deployed until now were "
            f"{sorted(by_version)}, at present {entries[-1].version}.",
            "Choose one of the earlier ones.",
        )
    return by_version[to]


def overtaken(family: str, asked: Promotion, newest: Promotion, model: Recorded) -> Refused:
    """What is said where the model that one wanted away from is not the deployed one any more."""
    there = newest.model == model
    return Refused(
        f"Version {newest.version} was deployed (promotion {newest.sequence}, decided by "
        f"{newest.decided_by}) after the rollback from version {asked.version} was asked for. "
        "Nothing was changed.",
        "It is what was to be gone back to."
        if there
        else f"To go back to version {model.version} all the same: supermerge rollback {family} "
        f"--to {model.version}",
    )


@contextmanager
def what_else_there_is(
    family: str, entries: Sequence[Promotion], model: Recorded
) -> Iterator[None]:
    """Adds to a fault of the model to go back to which others there are."""
    try:
        yield
    except (Corrupt, Unreadable) as error:
        left_out = {model.version, entries[-1].version}
        others = sorted({entry.version for entry in entries} - left_out)
        listed = f"Others were deployed before: {', '.join(map(str, others)) or 'none'}"
        raise Refused(
            f"Version {model.version} cannot be gone back to. {error}",
            f"{listed}; supermerge rollback {family} --to VERSION",
        ) from error
