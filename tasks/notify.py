"""Telling people what has happened, and what they have to do: once for each event."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prefect import get_run_logger, task

from infra.errors import Conflict
from infra.families import Family, Target
from infra.faults import explained
from infra.notify import Notice, send
from infra.queue import MergeQueue
from infra.storage.promotions import Promotion
from tasks.retry import SIDE_EFFECT

_STUCK = 4  # Runs in a row that fail until people hear that it will not pass by itself.


@task(**SIDE_EFFECT)
def notify(queue: MergeQueue, notice: Notice, targets: Sequence[Target] | None = None) -> None:
    """Sends a notice to every target of the family, unless that was done; a target never blocks a flow.

    Args:
        queue: The family's queue.
        notice: What people are told.
        targets: Others than the family's own.
    """
    _tell(queue, notice, targets)


@task(**SIDE_EFFECT)
def end_event(queue: MergeQueue, *prefixes: str) -> None:
    """Forgets that people were told of something that is over, so that they hear of it the next time."""
    _forget(queue, *prefixes)


@task(**SIDE_EFFECT)
def tell_of_log(queue: MergeQueue, newest: Promotion | None, after: int | None = None) -> None:
    """Tells people of every entry of the promotion log that they were not told of yet.

    Args:
        queue: The family's queue.
        newest: The newest entry.
        after: The entry up to which they know, where no record says so; default: all but a first one.
    """
    for target, fault in told_of_log(queue, newest, after):
        get_run_logger().warning("notification to %s failed: %s", target, fault)


def told_of_log(
    queue: MergeQueue, newest: Promotion | None, after: int | None = None
) -> Iterator[tuple[str, str]]:
    """As :func:`tell_of_log`, outside of a flow; yields (target, fault) for each that was not reached."""
    if newest is None:
        return
    told = queue.told.read()
    known = told.promotion
    if known is None:
        known = after if after is not None else newest.sequence if newest.sequence > 1 else 0
    if known < newest.sequence - 1:
        unknown = queue.promotions.entries()[known:]
    else:
        unknown = (newest,) if known < newest.sequence else ()
    for entry in unknown:
        yield from send(queue.family, _of_entry(queue.name, entry))
    if told.promotion != newest.sequence:
        queue.told.write(told.model_copy(update={"promotion": newest.sequence}))


@contextmanager
def failures_told(queue: MergeQueue, flow: str) -> Iterator[Callable[[], None]]:
    """Tells people of a run that fails, once, and again where the next ones go on failing.

    Yields:
        To be called before work begins that takes long: then the next run knows of one that was killed.
    """
    before = queue.told.read().unfinished.get(flow, 0)

    def begin() -> None:
        if before:
            words = "The last run ended without a word: it was killed, or its machine failed."
            _tell_of_failures(queue, flow, before, words)
        _count(queue, flow, before + 1)

    try:
        yield begin
    except Conflict:
        raise  # Somebody else decided at the same moment; the next run goes on from there.
    except Exception as error:
        words = str(explained(error) or f"{type(error).__name__}: {error}")
        _tell_of_failures(queue, flow, before + 1, words)
        _count(queue, flow, before + 1)
        raise
    told = queue.told.read()
    if flow in told.unfinished:
        _count(queue, flow, 0)
        _forget(queue, f"run-failed {flow}", f"stuck {flow}")


def _count(queue: MergeQueue, flow: str, runs: int) -> None:
    told = queue.told.read()
    counts = {name: count for name, count in {**told.unfinished, flow: runs}.items() if count}
    queue.told.write(told.model_copy(update={"unfinished": counts}))


def _tell_of_failures(queue: MergeQueue, flow: str, runs: int, words: str) -> None:
    if runs < _STUCK:
        notice = Notice(
            "run-failed", queue.name, f"{queue.name}: a run of {flow} failed", words, flow
        )
    else:
        subject = f"{queue.name} is stuck: {runs} runs of {flow} in a row failed"
        notice = Notice("stuck", queue.name, subject, words, flow)
    _tell(queue, notice)


def _tell(queue: MergeQueue, notice: Notice, targets: Sequence[Target] | None = None) -> None:
    told = queue.told.read()
    if notice.key not in told.events:
        own = queue.family if targets is None else _with_targets(queue.family, targets)
        for target, fault in send(own, notice):
            get_run_logger().warning("notification to %s failed: %s", target, fault)
        queue.told.write(told.of(notice.key))


def _forget(queue: MergeQueue, *prefixes: str) -> None:
    told = queue.told.read()
    if told.without(*prefixes) != told:
        queue.told.write(told.without(*prefixes))


def _with_targets(family: Family, targets: Sequence[Target]) -> Family:
    return family.model_copy(update={"notify": tuple(targets)})


def _of_entry(family: str, entry: Promotion) -> Notice:
    version = f"version {entry.version}"
    match entry.action:
        case "promote":
            return Notice("promoted", family, f"{family} {version} is deployed", entry.reason)
        case "rollback":
            return Notice("rolled-back", family, f"{family} is back at {version}", entry.reason)
        case "freeze" | "thaw":
            subject = f"{family} is {'frozen' if entry.frozen else 'thawed'} at {version}"
            words = f"By {entry.decided_by}: {entry.reason}"
            return Notice("frozen" if entry.frozen else "thawed", family, subject, words)
