"""How every family stands: what is deployed, what waits, and what cannot be seen at present.

The log in the object store says what is deployed; what waits stands in MLflow. Where one of them cannot
be read the other is shown all the same, and one family's fault hides no other family.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from infra.families import Family, load_family
from infra.registry.experts import ExpertVersion
from infra.registry.merged import MergedVersion
from infra.registry.registry import Registry
from infra.settings import Settings
from infra.storage.promotions import Promotion, PromotionLog
from infra.storage.store import ObjectStore
from merging.errors import MergeQueueError

T = TypeVar("T")
Find = Callable[[str], tuple[T, ...]]
FAULTS = (MergeQueueError, OSError)
"""What reading may raise; MLflow's own client raises the second kind."""
_AT_ONCE = 8  # Families that are looked at side by side.
ALL = ("log", "experts", "candidates")
UNREADABLE = "malformed"
"""What an expert counts as whose status nobody can read."""


@dataclass(frozen=True)
class Overview:
    """One family at one moment.

    Attributes:
        name: The family.
        family: Its file; None where that cannot be read.
        newest: The last entry of its log.
        recent: As many of the last entries as were asked for, the oldest first.
        deployed: The entry that made the deployed model the deployed one.
        experts: Its experts, oldest first.
        candidates: Merged models that wait for a person's review.
        unseen: Which of log, experts and candidates could not be read.
        faults: Why, in sentences.
    """

    name: str
    family: Family | None = None
    newest: Promotion | None = None
    recent: tuple[Promotion, ...] = ()
    deployed: Promotion | None = None
    experts: tuple[ExpertVersion, ...] = ()
    candidates: tuple[MergedVersion, ...] = ()
    unseen: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def counts(self) -> Counter[str]:
        """How many experts there are of each status."""
        return Counter(expert.status or UNREADABLE for expert in self.experts)

    def oldest(self, status: str) -> datetime | None:
        """When the first of the experts of a status was registered; None where there is none."""
        times = [e.registered for e in self.experts if e.status == status and e.registered]
        return min(times, default=None)


def overviews(settings: Settings, store: ObjectStore, registry: Registry) -> tuple[Overview, ...]:
    """Every family that has a file, by name; MLflow is asked for all of them at once."""
    experts = _grouped(registry.experts.of_all, lambda expert: expert.tags.family)
    candidates = _grouped(registry.merged.candidates, lambda version: version.family)

    def one(name: str) -> Overview:
        try:
            family = load_family(name, settings.families_dir)
        except MergeQueueError as error:
            return Overview(name, unseen=ALL, faults=(str(error),))
        return _overview(family, store, experts, candidates)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return tuple(threads.map(one, settings.family_names()))


def overview(family: Family, store: ObjectStore, registry: Registry, recent: int = 0) -> Overview:
    """One family; what cannot be read is left out and named.

    Args:
        family: Which one.
        store: Has its log.
        registry: Has its experts and candidates.
        recent: How many of the last entries of the log are wanted beside the newest.
    """

    def candidates(name: str) -> tuple[MergedVersion, ...]:
        return tuple(v for v in registry.merged.of(name) if v.status == "candidate")

    return _overview(family, store, registry.experts.of, candidates, recent)


def _grouped(find: Callable[[], Iterable[T]], family: Callable[[T], str]) -> Find[T]:
    """What gives those of one family among all that are found; a fault is raised for each family."""
    try:
        found = tuple(find())
    except FAULTS as error:
        fault = error

        def fail(_: str) -> tuple[T, ...]:
            raise fault

        return fail
    return lambda name: tuple(one for one in found if family(one) == name)


def _overview(
    family: Family,
    store: ObjectStore,
    experts: Find[ExpertVersion],
    candidates: Find[MergedVersion],
    recent: int = 0,
) -> Overview:
    log = PromotionLog(store, family.root / "promotions")
    faults: dict[str, str] = {}

    def read(part: str, what: Callable[[], T]) -> T | None:
        try:
            return what()
        except FAULTS as error:
            faults[part] = str(error)
            return None

    newest = read("log", log.newest)
    deployed = newest
    if newest is not None and newest.deployment != newest.sequence:
        deployed = read("log", lambda: log.entries()[newest.deployment - 1])
    last = read("log", log.entries) if recent and newest else None
    registered = read("experts", lambda: experts(family.name))
    waiting = read("candidates", lambda: candidates(family.name))
    return Overview(
        name=family.name,
        family=family,
        newest=newest,
        recent=(last or ())[-recent:],
        deployed=deployed,
        experts=registered or (),
        candidates=waiting or (),
        unseen=tuple(faults),
        faults=tuple(dict.fromkeys(faults.values())),
    )
