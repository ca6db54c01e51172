"""Merged models in MLflow: the versions of the registered model that is named after the family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from infra.errors import Refused
from infra.names import check_family
from infra.registry.tags import STATUS, Approval, CandidateTags, MergedStatus
from infra.registry.versions import (
    create_version,
    ensure_model,
    find_model,
    get_version,
    retag,
    search_versions,
)
from infra.storage.pages import Page, Pages
from infra.storage.promotions import Recorded
from infra.storage.store import S3Uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, PREVIOUS = "champion", "previous"
_DECLINED = ("rejected", "superseded")
_NO_DECISION = {"approval": None, "decided": None, "decided_by": "", "review_reason": ""}


@dataclass(frozen=True)
class MergedVersion:
    """One merged model of a family."""

    family: str
    version: int
    source: str
    run_id: str | None
    """The MLflow run of the attempt that built it."""
    tags: CandidateTags

    @property
    def page(self) -> Page:
        """It as it is kept in the object store."""
        return Page(
            name=self.family, version=self.version, source=self.source, tags=self.tags.write()
        )

    @property
    def status(self) -> MergedStatus | None:
        """Where in its life it is; None where the queue did not register it."""
        return self.tags.status

    @property
    def location(self) -> S3Uri:
        """The folder of its files."""
        return S3Uri.parse(self.source)

    @property
    def manifest_sha256(self) -> str:
        """The digest recorded when it was registered ("" where the tag was removed)."""
        return self.tags.manifest_sha256


def find_version(model: Recorded, versions: Sequence[MergedVersion]) -> MergedVersion | None:
    """The version in MLflow of a model that the queue recorded; None where it is gone from there.

    A number alone is not believed, since MLflow may have begun to count anew.
    """
    same = [v for v in versions if v.source == str(model.location)]
    numbered = [v for v in same if v.version == model.version]
    return max(numbered or same, key=lambda page: page.version, default=None)


class MergedVersions:
    """The merged models of one MLflow server."""

    def __init__(self, client: MlflowClient, pages: Pages | None = None) -> None:
        self._client = client
        self._pages = pages

    def of(self, family: str) -> tuple[MergedVersion, ...]:
        """Every merged version of a family, oldest first."""
        versions = search_versions(self._client, f"name = '{check_family(family)}'")
        return tuple(_merged(v) for v in sorted(versions, key=lambda v: int(v.version)))

    def candidates(self) -> tuple[MergedVersion, ...]:
        """The merged versions of any family that wait for a decision, in no particular order."""
        return tuple(map(_merged, search_versions(self._client, f"tags.`{STATUS}` = 'candidate'")))

    def get(self, family: str, version: int) -> MergedVersion:
        """One merged version by number.

        Raises:
            InvalidInput: There is no such version.
        """
        return _merged(get_version(self._client, check_family(family), version))

    def register(
        self,
        family: str,
        location: S3Uri,
        run_id: str,
        tags: CandidateTags,
        description: str,
        above: int = 0,
    ) -> MergedVersion:
        """Creates a merged version; the same files registered again are the same version.

        Unless that was decided against: then a new version asks once more, as a decision is final.
        Its number is above `above`, the highest of the promotion log, whatever MLflow counts from.
        """
        ensure_model(self._client, family)
        for version in self.of(family):
            if version.source == str(location) and version.status not in _DECLINED:
                return version
        page = Page(name=family, version=above + 1, source=str(location), tags=tags.write())
        more = {"run_id": run_id, "description": description}
        return _merged(create_version(self._client, self._pages, page, **more))

    def remake(self, page: Page, run_id: str | None, description: str) -> MergedVersion:
        """Creates a version that MLflow lost, under its number where that is still to come."""
        ensure_model(self._client, page.name)
        more = {"run_id": run_id, "description": description}
        return _merged(create_version(self._client, self._pages, page, **more))

    def settle(self, version: MergedVersion, status: MergedStatus, reason: str) -> None:
        """Sets status and reason of a merged version."""
        self._retag(version, status=status, reason=reason)

    def record_review(self, version: MergedVersion, words: str, *, refused: bool) -> None:
        """Writes down what came of a review.

        A decision that was refused is used up, and its name and reason with it: the next is another
        person's, or another reason's.
        """
        used_up = refused and version.status == "candidate" and version.tags.approval is not None
        self._retag(version, review=words, **(_NO_DECISION if used_up else {}))

    def disown(self, version: MergedVersion) -> MergedVersion:
        """Removes the name and the reason of a decision that another person has changed since."""
        values = {name: value for name, value in _NO_DECISION.items() if name != "approval"}
        self._retag(version, **values)
        return replace(version, tags=version.tags.model_copy(update=values))

    def review(self, version: MergedVersion, decision: Approval, who: str, reason: str) -> None:
        """Records a person's decision on a candidate.

        Raises:
            Refused: It is no candidate any more; nothing was recorded.
        """
        if version.status != "candidate":
            raise Refused(
                f"Version {version.version} is {version.status or 'not a candidate'}, so it cannot "
                f"be {decision} any more.",
                "Review the newest candidate, or roll back.",
            )
        values = {"decided": decision, "decided_by": who, "review_reason": reason}
        self._retag(version, approval=decision, **values)

    def aliases(self, family: str) -> dict[str, int]:
        """The family's aliases and the versions that they point to."""
        model = find_model(self._client, check_family(family))
        return {alias: int(to) for alias, to in model.aliases.items()} if model else {}

    def point(self, family: str, wanted: Mapping[str, int | None]) -> None:
        """Points aliases to versions, or removes them; does nothing where that is so already."""
        present = self.aliases(family)
        for alias, version in wanted.items():
            if version is None and alias in present:
                self._client.delete_registered_model_alias(family, alias)
            elif version is not None and present.get(alias) != version:
                self._client.set_registered_model_alias(family, alias, str(version))

    def _retag(self, version: MergedVersion, **values: object) -> None:
        retag(self._client, self._pages, version.page, version.tags, **values)


def _merged(version: ModelVersion) -> MergedVersion:
    return MergedVersion(
        family=version.name,
        version=int(version.version),
        source=version.source or "",
        run_id=version.run_id or None,
        tags=CandidateTags.read(version.tags),
    )
