"""What the queue writes on the pages of MLflow, kept in the object store as well.

Each version that the queue touches, expert or merged model, has an object
``<family>/pages/<name>/00000003-<start of the digest of its source>.json`` with the tags that the queue
gave it last. From these MLflow can be made again. MLflow's number alone names nothing: a database that
was lost counts from 1 again, and so does a model that somebody deleted; so the source is in the name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import Unreadable
from infra.names import NAME_PATTERN
from infra.storage.store import ObjectStore, S3Uri

_FILE = re.compile(r"(\d{8,})-([0-9a-f]{16})\.json")


class Page(BaseModel):
    """A version as the queue has it in MLflow.

    Attributes:
        name: Its registered model.
        version: MLflow's number for it.
        source: Where its files are, as it was registered.
        tags: The queue's own tags by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    source: str
    tags: Mapping[str, str]


class Pages:
    """The pages of one family."""

    def __init__(self, store: ObjectStore, family: S3Uri) -> None:
        self._store = store
        self._folder = family / "pages"

    def write(self, page: Page) -> None:
        """Keeps a page, as it is now."""
        self._store.write(self._place(page), (page.model_dump_json(indent=1) + "\n").encode())

    def change(self, page: Page, changes: Mapping[str, str | None]) -> None:
        """Keeps what changes on a page; None stands for a tag that is removed.

        Args:
            page: The page before, with the tags that MLflow has of it.
            changes: New values by the tags' names.
        """
        kept = self._read(self._place(page)) or page
        tags = {
            name: value for name, value in {**kept.tags, **changes}.items() if value is not None
        }
        self.write(page.model_copy(update={"tags": tags}))

    def all(self) -> Iterator[Page]:
        """Every page, by name and number; one that cannot be read back counts as not there."""
        for item in self._store.list(self._folder):
            if page := self._read(item.uri):
                yield page

    def of(self, name: str, version: int) -> dict[str, S3Uri]:
        """Where pages of this number are, by the mark of their source; mostly there is one."""
        files = self._store.list(self._folder / _folder(name))
        found = ((_FILE.fullmatch(item.path), item.uri) for item in files)
        return {match[2]: uri for match, uri in found if match and int(match[1]) == version}

    def is_free(self, name: str, version: int, source: str) -> bool:
        """Whether a number of MLflow's is not known as that of something else."""
        return set(self.of(name, version)) <= {_mark(source)}

    def find(self, name: str, version: int) -> Page | None:
        """The page of this number; None where there is none, or where several have it."""
        places = list(self.of(name, version).values())
        return self._read(places[0]) if len(places) == 1 else None

    def _read(self, place: S3Uri) -> Page | None:
        try:
            page = Page.model_validate_json(self._store.read(place))
        except (Unreadable, ValidationError):
            return None
        return page if self._place(page) == place else None

    def _place(self, page: Page) -> S3Uri:
        file = f"{page.version:08d}-{_mark(page.source)}.json"
        return self._folder / _folder(page.name) / file


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _folder(name: str) -> str:
    """A model's name, or its mark where MLflow takes what an object's key had better not have."""
    return name if re.fullmatch(NAME_PATTERN, name) else _mark(name)
