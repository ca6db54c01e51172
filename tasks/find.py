"""What is there: the experts that wait, the candidates that were reviewed, what is deployed."""

from __future__ import annotations

from prefect import task

from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from infra.registry.merged import MergedVersion
from infra.registry.tags import STATUS
from infra.storage.manifest import Manifest
from infra.storage.promotions import Promotion
from tasks.retry import SIDE_EFFECT

_OPEN = {"waiting", "merging"}  # A run that was killed leaves "merging" behind.


@task(**SIDE_EFFECT)
def find_waiting_experts(queue: MergeQueue) -> tuple[ExpertVersion, ...]:
    """The waiting experts in the order of their registration, the newest of each task.

    An older version of the same task that never got its turn is settled as held, and so is one
    whose status nobody can read.
    """
    experts = queue.registry.experts
    newest: dict[str, ExpertVersion] = {}
    for expert in experts.of(queue.name):
        if malformed := expert.tags.malformed.get(STATUS):
            reason = f"Its tag {STATUS} says {malformed!r}, which is no status. "
            reason += f"To merge it: supermerge release {expert.ref}"
            experts.settle(expert, "held", reason)
        if expert.status not in _OPEN:
            continue
        if older := newest.pop(expert.task, None):
            reason = f"{expert.ref} was registered later for the same task."
            experts.settle(older, "held", reason)
        newest[expert.task] = expert
    return tuple(newest.values())


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
def find_arrivals(queue: MergeQueue, version: MergedVersion) -> tuple[ExpertVersion, ...]:
    """The experts that are new in a merged version.

    Raises:
        Corrupt: Its manifest is not what was recorded.
    """
    manifest = Manifest.read(queue.store, version.location, version.manifest_sha256)
    return tuple(
        queue.registry.experts.get(record.name, record.version)
        for record in manifest.experts
        if record.task in version.tags.arrivals
    )


@task(**SIDE_EFFECT)
def find_deployed(queue: MergeQueue) -> Promotion | None:
    """The promotion that says what is deployed, or None before the first one."""
    return queue.promotions.newest()


@task(**SIDE_EFFECT)
def read_promotions(queue: MergeQueue) -> tuple[Promotion, ...]:
    """The whole promotion log, oldest first."""
    return queue.promotions.entries()
