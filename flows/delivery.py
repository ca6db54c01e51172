"""What becomes of a decided attempt: promoted, handed to a reviewer, or bounced."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from prefect import get_run_logger

from infra.errors import Conflict, Corrupt, Frozen, Refused, Unreadable
from infra.notify import Notice
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from infra.registry.merged import MergedVersion
from infra.registry.tags import APPROVAL
from infra.storage.manifest import Manifest
from infra.storage.promotions import Promotion, Recorded
from merging.errors import MergeQueueError
from tasks.find import find_deployed
from tasks.freeze import find_freeze
from tasks.mirror import repair_mirror
from tasks.notify import notify, tell_of_log
from tasks.promote import check_health, commit
from tasks.register import register_candidate, supersede_candidates
from tasks.retry import is_transient
from tasks.settle import settle_changes, settle_version
from tasks.values import Candidate, Change, Member, describe


@dataclass(frozen=True)
class Outcome:
    """What became of some experts that were decided together."""

    tasks: tuple[str, ...]
    verdict: Literal["promoted", "waits for review", "waits for a thaw", "bounced", "held"]
    reason: str
    version: int | None = None

    @property
    def waits(self) -> bool:
        """Whether a person has to act before anything is merged on top of it."""
        return self.verdict.startswith("waits")


class Overtaken(Refused):
    """A candidate was built on what is no longer deployed."""


def deliver(queue: MergeQueue, candidate: Candidate) -> Outcome:
    """Registers a candidate and promotes it, or leaves it to a reviewer.

    Raises:
        Overtaken, Conflict: Somebody else has changed the deployed model meanwhile.
    """
    check_not_overtaken(candidate.manifest, find_deployed(queue))
    changes, report = candidate.build.changes, candidate.report
    tasks = tuple(change.task for change in changes)
    version = register_candidate(queue, candidate)
    supersede_candidates(queue, version, f"Version {version.version} merges newer experts.")
    deployed = candidate.build.deployed
    # Whether to do without what nobody wanted out is for a person to say.
    lost = deployed.lost if deployed else {}
    if queue.family.promotion == "auto" and report.verdict == "passed" and not lost:
        words = [w.words for w in candidate.build.withdrawn]
        passed = f"Merges {describe(changes)}; the gate passed on every task."
        reason = " ".join((passed, *words))
        files = queue.attempts.candidate(candidate.build.key)
        model = Recorded(version.version, files, candidate.manifest.digest)
        try:
            promote_candidate(queue, model, "policy: auto", reason)
        except (Corrupt, Unreadable) as error:
            return hold(queue, candidate, version, str(error))
        except Frozen as error:
            reason = f"Passed in version {version.version}, which waits. {error}"
            settle_changes(queue, changes, "merging", reason)
            return Outcome(tasks, "waits for a thaw", reason, version.version)
        return Outcome(tasks, "promoted", reason, version.version)
    reason = (
        f"Waits for review of version {version.version}: set its tag {APPROVAL} to approved "
        "or rejected."
    )
    subject = f"{queue.name} version {version.version} needs review"
    text = " ".join((*dict.fromkeys(report.wanted.values()), *lost.values(), *report.reasons))
    about = f"{version.version} {candidate.build.key}"
    notify(queue, Notice("needs-review", queue.name, subject, text, about))
    settle_changes(queue, changes, "merging", reason)
    return Outcome(tasks, "waits for review", reason, version.version)


def hold(queue: MergeQueue, candidate: Candidate, version: MergedVersion, fault: str) -> Outcome:
    """Puts aside a candidate whose files are not what was judged, and what is new in it."""
    changes = candidate.build.changes
    settle_version(queue, version, "superseded", fault)
    reason = f"{fault} To build it again: {again(changes)}"
    outcome = bounce(queue, changes, "held", reason)
    settle_changes(queue, changes, "held", reason)
    return outcome


def promote_candidate(
    queue: MergeQueue, model: Recorded, decided_by: str, reason: str
) -> Promotion:
    """Makes a candidate the deployed model, unless anything speaks against it now.

    Raises:
        Overtaken: The deployed model has changed since the candidate was built.
        Frozen: A person froze the family, perhaps at this moment.
        Corrupt: Its files are not what was judged.
        Conflict: Another run committed at the same moment.
    """
    newest = find_deployed(queue)
    if newest and newest.frozen and (frozen := find_freeze(queue)):
        raise frozen
    manifest = check_health(queue, model)
    check_not_overtaken(manifest, newest)
    try:
        entry = commit(queue, model, newest, "promote", decided_by, reason)
    except Conflict as error:
        raise find_freeze(queue) or error from None
    with mirror_may_wait():
        repair_mirror(queue)
    tell_of_log(queue, entry, entry.sequence - 1)
    get_run_logger().info("%s version %d is deployed: %s", queue.name, model.version, reason)
    return entry


def check_not_overtaken(manifest: Manifest, newest: Promotion | None) -> None:
    """Raises Overtaken unless a candidate was built on what is deployed now."""
    present = newest.deployment if newest else 0
    if manifest.champion_sequence != present:
        raise Overtaken(
            f"The candidate was built on promotion {manifest.champion_sequence}, but the newest is "
            f"{present}: the deployed model has changed.",
            "The next merge builds a new candidate on it.",
        )


@contextmanager
def mirror_may_wait() -> Iterator[None]:
    """What is committed stays so while MLflow does not answer; the next sweep brings it in line."""
    try:
        yield
    except Exception as error:
        if not is_transient(error):
            raise
        get_run_logger().warning("MLflow will show it after the next sweep: %s", error)


def is_the_experts(error: Exception) -> bool:
    """Whether a fault that nobody foresaw is put down to the expert in hand, so that the others go on.

    What a server or a full disk does will pass, and is not.
    """
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return not (full or is_transient(error) or isinstance(error, Conflict | Refused | Corrupt))


def unforeseen(act: str, error: Exception, ref: str, again: str) -> str:
    """What people read of such a fault on an expert; the flow run has the rest."""
    get_run_logger().error("%s failed: %s", act, ref, exc_info=error)
    words = f"{type(error).__name__}: {error}. The flow run has the traceback."
    if isinstance(error, MergeQueueError):
        words = str(error)
    return f"{act} failed: {words} Mend the cause, then: {again}"


def again(changes: Sequence[Change]) -> str:
    """The commands by which people ask once more for some changes."""
    return " and ".join(
        f"supermerge {'release' if isinstance(c, Member) else 'withdraw'} {c.record.ref}"
        for c in changes
    )


def bounce(
    queue: MergeQueue,
    changes: Sequence[Change | ExpertVersion],
    status: Literal["rejected", "held"],
    reason: str,
) -> Outcome:
    """Tells people that experts were rejected or put aside.

    It comes before that is written on them: a run that dies in between tells again, and not never.
    """
    event: Literal["bounced", "held"] = "held" if status == "held" else "bounced"
    tasks = tuple(change.task for change in changes)
    subject = f"{queue.name}: {', '.join(tasks)} {event}"
    get_run_logger().warning("%s: %s", subject, reason)
    about = " ".join(f"{change.ref}#{change.request}" for change in changes)
    notify(queue, Notice(event, queue.name, subject, reason, about))
    return Outcome(tasks, event, reason)
