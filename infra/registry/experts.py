"""Experts in MLflow: versions of any registered model that carry a family's tag.

A version's source names a folder in S3; the weights never pass through the MLflow server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.names import check_family, check_task
from infra.registry.tags import FAMILY, TASK, ExpertStatus, ExpertTags
from infra.registry.versions import (
    create_version,
    ensure_model,
    get_version,
    retag,
    search_versions,
)
from infra.storage.manifest import MergedExpert
from infra.storage.pages import Page, Pages
from infra.storage.store import S3Uri
from merging.errors import InvalidInput

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


_COPY = re.compile(r"models:/.+/\d+")
_NOT_WITHDRAWN = {"withdraw": None, "withdrawn_by": "", "withdraw_reason": ""}


@dataclass(frozen=True)
class ExpertVersion:
    """One registered expert of a family."""

    name: str
    version: int
    source: str
    tags: ExpertTags
    registered: datetime | None = None
    copied: ExpertTags | None = None
    """The tags of another version, which MLflow gave this one when it was copied from there."""

    @property
    def ref(self) -> str:
        """``name/version``, as people write it."""
        return f"{self.name}/{self.version}"

    @property
    def page(self) -> Page:
        """It as it is kept in the object store."""
        return Page(
            name=self.name, version=self.version, source=self.source, tags=self.tags.write()
        )

    @property
    def task(self) -> str:
        """The ML task, as it was written; not validated yet."""
        return self.tags.task

    @property
    def status(self) -> ExpertStatus | None:
        """Where in its life it is; None where the tag is malformed."""
        return self.tags.status

    @property
    def request(self) -> str:
        """What tells its present turn from an earlier one."""
        return str(self.tags.releases or 0)

    @property
    def reason(self) -> str:
        """Why it is there."""
        return self.tags.reason


def find_page(record: MergedExpert, experts: Sequence[ExpertVersion]) -> ExpertVersion | None:
    """The version in MLflow of an expert that a manifest names; None where it is gone from there.

    A number alone is not believed, since MLflow may have begun to count anew.
    """
    same = [
        e
        for e in experts
        if e.name == record.name and (e.source == record.source or e.tags.digest == record.digest)
    ]
    numbered = [e for e in same if e.version == record.version]
    return max(numbered or same, key=lambda page: page.version, default=None)


class Experts:
    """The experts of one MLflow server."""

    def __init__(
        self,
        client: MlflowClient,
        artifact_root: S3Uri | None = None,
        pages: Pages | None = None,
    ) -> None:
        self._client = client
        self._artifact_root = artifact_root
        self._pages = pages

    def of(self, family: str) -> tuple[ExpertVersion, ...]:
        """Every expert that carries the family's tag, oldest first.

        One with a malformed task is listed with the task as it is; the flow refuses it.
        """
        return self._that_ask(f"= '{check_family(family)}'")

    def of_all(self) -> tuple[ExpertVersion, ...]:
        """Every expert of any family, as `of` gives those of one."""
        return self._that_ask("LIKE '%'")

    def _that_ask(self, condition: str) -> tuple[ExpertVersion, ...]:
        versions = sorted(
            search_versions(self._client, f"tags.`{FAMILY}` {condition}"),
            key=lambda v: (v.creation_timestamp, v.name),
        )
        return tuple(
            _expert(v) for v in versions if v.name != v.tags[FAMILY] and v.status == "READY"
        )

    def everywhere(self) -> tuple[ExpertVersion, ...]:
        """Every version that carries the tag of a family or of a task, whichever it is."""
        found = {
            (v.name, v.version): v
            for tag in (FAMILY, TASK)
            for v in search_versions(self._client, f"tags.`{tag}` LIKE '%'")
        }
        return tuple(map(_expert, found.values()))

    def get(self, name: str, version: int) -> ExpertVersion:
        """One expert by name and number.

        Raises:
            InvalidInput: There is no such version.
        """
        return _expert(get_version(self._client, name, version))

    def locate(self, expert: ExpertVersion) -> S3Uri:
        """The S3 folder that an expert's files are in.

        Raises:
            InvalidInput: The source is no folder in S3.
        """
        uri = self._client.get_model_version_download_uri(expert.name, str(expert.version))
        scheme, _, path = uri.partition(":")
        if scheme == "mlflow-artifacts" and self._artifact_root:
            path = path.removeprefix("//").partition("/")[2] if path.startswith("//") else path
            return S3Uri.parse(f"{self._artifact_root}/{path.strip('/')}")
        try:
            return S3Uri.parse(uri)
        except InvalidInput as error:
            raise InvalidInput(
                where=f"source of {expert.ref}",
                expected="a folder in S3 (s3://bucket/prefix)",
                found=repr(uri),
                remedy="Register the expert again with `supermerge register`.",
            ) from error

    def find(self, family: str, task: str, digest: str) -> ExpertVersion | None:
        """The newest version of a task that has this content, None where there is none."""
        name = f"{check_family(family)}-{check_task(task)}"
        versions = map(_expert, search_versions(self._client, f"name = '{name}'"))
        found = [version for version in versions if version.tags.digest == digest]
        return max(found, key=lambda version: version.version, default=None)

    def at(self, folder: S3Uri) -> tuple[ExpertVersion, ...]:
        """Every version of any model whose files lie in a folder, be it no expert."""
        found = search_versions(self._client, f"source_path LIKE '{folder}%'")
        return tuple(_expert(v) for v in found if f"{v.source}/".startswith(f"{folder}/"))

    def settle(
        self, expert: ExpertVersion, status: ExpertStatus, reason: str, report: str = ""
    ) -> bool:
        """Sets status and reason of an expert, and where to read more; whether that is news."""
        news = (expert.status, expert.reason) != (status, reason)
        if news:
            self._retag(expert, status=status, reason=reason, report=report)
        return news

    def release(self, expert: ExpertVersion, **more: object) -> None:
        """Puts an expert back into the queue, to be tried again whatever was decided before."""
        releases = (expert.tags.releases or 0) + 1
        values = {"status": "waiting", "reason": "Released.", "releases": releases, **more}
        self._retag(expert, **values, **_NOT_WITHDRAWN)

    def withdraw(self, expert: ExpertVersion, who: str, reason: str) -> ExpertVersion:
        """Asks for an expert to be taken out; one that is not deployed is out of the line at once."""
        values: dict[str, object] = {
            "withdraw": "true",
            "withdrawn_by": who,
            "withdraw_reason": reason,
        }
        words = expert.tags.model_copy(update=values).withdrawal
        if expert.status != "merged":
            values |= {"status": "withdrawn", "reason": words}
        self._retag(expert, **values)
        return self.get(expert.name, expert.version)

    def keep(self, expert: ExpertVersion, reason: str) -> bool:
        """Ends a request to take out a deployed expert: it stays, and why; whether that is news."""
        news = expert.tags.is_withdrawn or expert.reason != reason
        self._retag(expert, status="merged", reason=reason, **_NOT_WITHDRAWN)
        return news

    def record_digest(self, expert: ExpertVersion, digest: str) -> None:
        """Remembers the digest of an expert's content as it was pulled."""
        self._retag(expert, digest=digest)

    def prioritise(self, expert: ExpertVersion, priority: int) -> None:
        """Says how urgent an expert is."""
        self._retag(expert, priority=priority)

    def register(
        self, family: str, task: str, source: S3Uri, digest: str, **more: object
    ) -> ExpertVersion:
        """Creates an expert; the same content registered again is the same version.

        Args:
            family: The family that it is for.
            task: Its ML task.
            source: The folder of its files.
            digest: The digest of its content.
            more: What a person says of it, by the fields of its tags.
        """
        name = f"{check_family(family)}-{check_task(task)}"
        ensure_model(self._client, name)
        for version in search_versions(self._client, f"name = '{name}'"):
            known = _expert(version)
            if (known.tags.digest, known.source) == (digest, str(source)):
                return known
        tags = ExpertTags(family=family, task=task, digest=digest).model_copy(update=more)
        page = Page(name=name, version=0, source=str(source), tags=tags.write())
        return _expert(create_version(self._client, self._pages, page))

    def remake(self, page: Page) -> ExpertVersion:
        """Creates a version that MLflow lost, under its number where that is still to come."""
        ensure_model(self._client, page.name)
        return _expert(create_version(self._client, self._pages, page))

    def _retag(self, expert: ExpertVersion, **values: object) -> None:
        before = expert.tags
        if expert.copied:
            before = expert.copied
            values = {**dict(expert.tags), "of": expert.ref, **values}
        retag(self._client, self._pages, expert.page, before, **values)


def _expert(version: ModelVersion) -> ExpertVersion:
    source, tags, copied = version.source or "", ExpertTags.read(version.tags), None
    if _COPY.fullmatch(source) and tags.of != f"{version.name}/{version.version}":
        copied, tags = tags, ExpertTags.read({FAMILY: tags.family, TASK: tags.task})
    return ExpertVersion(
        name=version.name,
        version=int(version.version),
        source=source,
        tags=tags,
        copied=copied,
        registered=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
    )
