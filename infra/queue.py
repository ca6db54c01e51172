"""One family's merge queue: its settings and the servers that hold its state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from infra.engine import Engine
from infra.families import Family, load_family
from infra.logs import FAMILY
from infra.registry.registry import Registry
from infra.settings import Settings
from infra.storage.answers import Answers
from infra.storage.attempts import Attempts
from infra.storage.cache import Cache
from infra.storage.contents import Contents
from infra.storage.decisions import Decisions
from infra.storage.manifest import Manifest
from infra.storage.pages import Pages
from infra.storage.promotions import PromotionLog, Recorded
from infra.storage.store import ObjectStore, connect_store
from infra.storage.told import Ledger
from merging.models.folder import MANIFEST


@dataclass(frozen=True)
class MergeQueue:
    """What every task needs to know: the family, and where its bytes, versions and log are."""

    family: Family
    settings: Settings
    store: ObjectStore
    cache: Cache
    registry: Registry
    promotions: PromotionLog
    given: Engine | None = None

    @classmethod
    def open(cls, family: str, settings: Settings | None = None) -> MergeQueue:
        """Connects to the servers of the settings for one family.

        Raises:
            InvalidInput: Settings are missing, or the family file is missing or malformed.
        """
        settings = settings or Settings.load()
        settings.apply()
        FAMILY.set(family)
        definition = load_family(family, settings.families_dir)
        store = connect_store(settings)
        cache = Cache(settings.cache_dir, store, settings.cache_size)
        cache.room.make()
        return cls(
            family=definition,
            settings=settings,
            store=store,
            cache=cache,
            registry=Registry.connect(settings, Pages(store, definition.root)),
            promotions=PromotionLog(store, definition.root / "promotions", cache.read),
        )

    @cached_property
    def engine(self) -> Engine:
        """What learns and answers: what was given, or the engine itself, loaded when first used."""
        return self.given or Engine.real()

    @property
    def name(self) -> str:
        """The family's name, which is also its registered model's."""
        return self.family.name

    @property
    def told(self) -> Ledger:
        """What its people were told already."""
        here = self.settings.cache_dir / "notices" / f"{self.name}.json"
        return Ledger(self.store, self.family.root / "notices.json", here)

    @property
    def attempts(self) -> Attempts:
        """What was decided on each build of the family."""
        return Attempts(self.store, self.family.root)

    @property
    def contents(self) -> Contents:
        """Which files an expert or a base consisted of when it was looked at."""
        return Contents(self.store, self.family.root)

    @property
    def pages(self) -> Pages:
        """What stands on the family's pages in MLflow, kept."""
        return Pages(self.store, self.family.root)

    @cached_property
    def answers(self) -> Answers:
        """What models of the family answered to examples."""
        return Answers(self.store, self.cache, self.family.root)

    @property
    def decisions(self) -> Decisions:
        """Which gate examples each build was decided on."""
        return Decisions(self.store, self.cache, self.family.root)

    def manifest(self, model: Recorded) -> Manifest:
        """The manifest of a model as it was recorded; its digest says that it still is, so it is read once.

        Raises:
            Corrupt: It is not what was recorded.
            Unreadable: It is gone.
        """
        place = model.location / MANIFEST
        data = self.cache.read_recorded(place, model.manifest_sha256)
        return Manifest.parse(data, place, model.manifest_sha256)

    @contextmanager
    def past_the_cache(self) -> Iterator[MergeQueue]:
        """The queue with an empty cache, so that all bytes come from the object store."""
        with self.cache.room.scratch() as folder:
            log = PromotionLog(self.store, self.family.root / "promotions")
            yield replace(self, cache=Cache(folder, self.store), promotions=log)

    def work(self, key: str) -> Path:
        """A scratch folder that outlives a killed run, one per build key."""
        folder = self.cache.room.use(self._work(key))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def work_is_done(self, *keys: str) -> None:
        """Says that these scratch folders are not used any more; they go when others need the room."""
        for key in keys:
            self.cache.room.release(self._work(key))

    def _work(self, key: str) -> Path:
        return self.cache.root / "work" / self.name / key
