"""What is there: the experts that wait, the candidates that were reviewed, what is deployed."""

from __future__ import annotations

from prefect import task

from infra.names import check_task
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion, find_page
from infra.registry.merged import MergedVersion
from infra.registry.tags import STATUS, TASK
from infra.storage.manifest import MergedExpert
from infra.storage.promotions import Promotion, Recorded
from merging.errors import InvalidInput
from merging.gate import GateReport
from tasks.retry import SIDE_EFFECT

_OPEN = {"waiting", "merging"}  # A run that was killed leaves "merging" behind.


@task(**SIDE_EFFECT)
def find_waiting_experts(queue: MergeQueue) -> tuple[ExpertVersion, ...]:
    """The waiting experts in the order of their registration, the newest of each task.

    An older version of the same task that never got its turn is settled as held, and so is one
    whose status nobody can read. One whose tags are not complete waits for them.
    """
    experts = queue.registry.experts
    newest: dict[str, ExpertVersion] = {}
    for expert in experts.of(queue.name):
        if malformed := expert.tags.malformed.get(STATUS):
            reason = f"Its tag {STATUS} says {malformed!r}, which is no status. "
            reason += f"To merge it: supermerge release {expert.ref}"
            experts.settle(expert, "held", reason)
        if expert.tags.is_withdrawn and expert.status not in ("merged", "withdrawn"):
            experts.settle(expert, "withdrawn", expert.tags.withdrawal)
            continue
        if expert.status not in _OPEN:
            continue
        if missing := _missing(expert):
            experts.settle(expert, "waiting", missing)
            continue
        if older := newest.pop(expert.task, None):
            reason = f"{expert.ref} was registered later for the same task."
            experts.settle(older, "held", reason)
        newest[expert.task] = expert
    return tuple(newest.values())


def _missing(expert: ExpertVersion) -> str:
    """What its tags lack before it can be looked at, in words; "" where they are complete."""
    if not expert.task:
        return f"Waits for its tag {TASK}: the name of its task."
    try:
        check_task(expert.task)
    except InvalidInput as error:
        return f"Waits for its tag {TASK} to be corrected: expected {error.expected}, found {error.found}."
    return ""


@task(**SIDE_EFFECT)
def find_reviewed_candidates(queue: MergeQueue) -> tuple[MergedVersion, ...]:
    """The candidates on which a person has written a decision, oldest first."""
    versions = queue.registry.merged.of(queue.name)
    return tuple(v for v in versions if v.status == "candidate" and v.tags.is_reviewed)


@task(**SIDE_EFFECT)
def find_version(queue: MergeQueue, number: int) -> MergedVersion:
    """One merged version of the family.

    Raises:
        InvalidInput: There is no such version.
    """
    return queue.registry.merged.get(queue.name, number)


@task(**SIDE_EFFECT)
def find_judged(queue: MergeQueue, version: MergedVersion) -> tuple[Recorded, GateReport]:
    """What the queue itself recorded of the candidate that a version in MLflow stands for.

    Raises:
        Corrupt: It has no such record.
    """
    return queue.attempts.judged(version.version, version.source)


@task(**SIDE_EFFECT)
def find_arrivals(queue: MergeQueue, model: Recorded) -> tuple[ExpertVersion, ...]:
    """The experts of a candidate that were not in the model which it was built on.

    Raises:
        Corrupt: A manifest is not what was recorded.
    """
    arrived, _ = compare_with_built_on(queue, model)
    present = queue.registry.experts.of(queue.name)
    # One that was deleted in MLflow meanwhile has no page on which anything could be written.
    return tuple(e for r in arrived if (e := find_page(r, present)))


def compare_with_built_on(
    queue: MergeQueue, model: Recorded
) -> tuple[list[MergedExpert], list[MergedExpert]]:
    """The experts that are new in a candidate, and those whose tasks it does not hold any more.

    Raises:
        Corrupt: A manifest is not what was recorded.
    """
    manifest = queue.manifest(model)
    before: tuple[MergedExpert, ...] = ()
    for entry in queue.promotions.entries():
        if entry.sequence == manifest.champion_sequence:
            before = queue.manifest(entry.model).experts
    contents = {(record.task, record.digest) for record in before}
    arrived = [r for r in manifest.experts if (r.task, r.digest) not in contents]
    left = [record for record in before if record.task not in manifest.tasks]
    return arrived, left


@task(**SIDE_EFFECT)
def find_deployed(queue: MergeQueue) -> Promotion | None:
    """The promotion that says what is deployed, or None before the first one."""
    return queue.promotions.newest()


@task(**SIDE_EFFECT)
def read_promotions(queue: MergeQueue) -> tuple[Promotion, ...]:
    """The whole promotion log, oldest first."""
    return queue.promotions.entries()
