"""MLflow as the queue sees it: expert versions, merged versions, their tags and aliases.

MLflow is where people look; nothing is decided from its aliases, and a tag that came from outside
is validated before it is used. Weights never pass through the MLflow server: a version's source
names a folder in S3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlparse

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from infra.errors import Refused
from infra.names import check_family, check_task
from infra.storage.store import S3Uri
from merging.errors import InvalidInput

ExpertStatus = Literal["waiting", "merging", "merged", "rejected", "held"]
MergedStatus = Literal["candidate", "promoted", "superseded", "rolled-back", "rejected"]

CHAMPION, PREVIOUS = "champion", "previous"
_DECLINED = ("rejected", "superseded")
_SEARCH_PAGE = 200
_LONGEST_REASON = 8_000  # characters; thousands of mismatched tensors would not fit into a tag


@dataclass(frozen=True)
class ExpertVersion:
    """One registered expert of a family."""

    name: str
    version: int
    task: str
    source: str
    status: str
    reason: str
    digest: str
    """Of its content, once it was looked at."""
    report: str
    """Where the report of its decision is."""

    @property
    def ref(self) -> str:
        """``name/version``, as people write it."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class MergedVersion:
    """One merged model of a family. ``tags`` are as stored in MLflow."""

    family: str
    version: int
    source: str
    run_id: str | None
    tags: Mapping[str, str]

    @property
    def status(self) -> str:
        """Where in its life it is: candidate, promoted, superseded, rolled-back, rejected."""
        return self.tags.get("merge.status", "")

    @property
    def location(self) -> S3Uri:
        """The folder of its files."""
        return S3Uri.parse(self.source)

    @property
    def manifest_sha256(self) -> str:
        """The digest recorded when it was registered ("" where the tag was removed)."""
        return self.tags.get("merge.manifest-sha256", "")


class Registry:
    """Reads and writes the versions of one MLflow server."""

    def __init__(self, client: MlflowClient, artifact_root: S3Uri | None = None) -> None:
        self.client = client
        self._artifact_root = artifact_root

    def experts(self, family: str) -> tuple[ExpertVersion, ...]:
        """Every expert version that carries the family's tag, oldest first.

        A version with a malformed task is listed with the task as it is; the flow refuses it.
        """
        query = f"tags.`merge.family` = '{check_family(family)}'"
        versions = sorted(self._search(query), key=lambda v: (v.creation_timestamp, v.name))
        return tuple(_expert(v) for v in versions if v.name != family and v.status == "READY")

    def expert(self, name: str, version: int) -> ExpertVersion:
        """One expert version by name and number."""
        return _expert(self._get(name, version))

    def family_of(self, expert: ExpertVersion) -> str:
        """The family that an expert version is tagged with, validated."""
        return check_family(self._get(expert.name, expert.version).tags.get("merge.family", ""))

    def locate(self, expert: ExpertVersion) -> S3Uri:
        """The S3 folder that an expert's files are in.

        Raises:
            InvalidInput: the source is no folder in S3.
        """
        uri = self.client.get_model_version_download_uri(expert.name, str(expert.version))
        if urlparse(uri).scheme == "mlflow-artifacts" and self._artifact_root:
            return S3Uri.parse(f"{self._artifact_root}/{urlparse(uri).path.strip('/')}")
        try:
            return S3Uri.parse(uri)
        except InvalidInput as error:
            raise InvalidInput(
                where=f"source of {expert.ref}",
                expected="a folder in S3 (s3://bucket/prefix)",
                found=repr(uri),
                remedy="Register the expert again with `supermerge register`.",
            ) from error

    def settle_expert(
        self, expert: ExpertVersion, status: ExpertStatus, reason: str, report: str = ""
    ) -> None:
        """Sets status and reason of an expert, and where to read more."""
        reason = _clipped(reason)
        if (expert.status, expert.reason) == (status, reason):
            return
        tags = {"merge.reason": reason, "merge.report": report, "merge.status": status}
        for key, value in tags.items():
            if value or key != "merge.report":
                self.client.set_model_version_tag(expert.name, str(expert.version), key, value)

    def record_digest(self, expert: ExpertVersion, digest: str) -> None:
        """Remembers the digest of an expert's content as it was pulled."""
        if expert.digest != digest:
            self.client.set_model_version_tag(
                expert.name, str(expert.version), "merge.digest", digest
            )

    def register_expert(self, family: str, task: str, source: S3Uri, digest: str) -> ExpertVersion:
        """Creates an expert version; the same content registered again is the same version."""
        name = f"{check_family(family)}-{check_task(task)}"
        self._ensure_model(name)
        for version in self._search(f"name = '{name}'"):
            if version.tags.get("merge.digest") == digest and version.source == str(source):
                return _expert(version)
        tags = {"merge.family": family, "merge.task": task, "merge.digest": digest}
        return _expert(
            self.client.create_model_version(name, str(source), tags=tags, await_creation_for=0)
        )

    def merged(self, family: str) -> tuple[MergedVersion, ...]:
        """Every merged version of a family, oldest first."""
        found = self._search(f"name = '{check_family(family)}'")
        return tuple(_merged(v) for v in sorted(found, key=lambda v: int(v.version)))

    def merged_version(self, family: str, version: int) -> MergedVersion:
        """One merged version by number."""
        return _merged(self._get(check_family(family), version))

    def register_merged(
        self,
        family: str,
        location: S3Uri,
        run_id: str,
        tags: Mapping[str, str],
        description: str,
    ) -> MergedVersion:
        """Creates a merged version; the same files registered again are the same version.

        Unless that was decided against: then a new version asks once more, as a decision is final.
        """
        self._ensure_model(family)
        for version in self.merged(family):
            if version.source == str(location) and version.status not in _DECLINED:
                return version
        created = self.client.create_model_version(
            family,
            str(location),
            run_id=run_id,
            tags=dict(tags),
            description=description,
            await_creation_for=0,
        )
        return _merged(created)

    def tag_merged(self, version: MergedVersion, tags: Mapping[str, str]) -> None:
        """Sets the tags of a merged version that differ from what it was read with."""
        for key, value in tags.items():
            if version.tags.get(key) != value:
                self.client.set_model_version_tag(version.family, str(version.version), key, value)

    def review(self, version: MergedVersion, decision: str, who: str, reason: str) -> None:
        """Records a person's decision on a candidate, the decision itself last.

        Raises:
            Refused: it is no candidate any more; nothing was recorded.
        """
        if version.status != "candidate":
            raise Refused(
                f"Version {version.version} is {version.status or 'not a candidate'}, so it cannot "
                f"be {decision} any more.",
                "Review the newest candidate, or roll back.",
            )
        self.tag_merged(
            version,
            {
                "merge.decided-by": who,
                "merge.review-reason": reason,
                "approval_status": decision,
            },
        )

    def version_page(self, name: str, version: int) -> str:
        """Where people look at a version."""
        return f"{mlflow.get_tracking_uri()}/#/models/{name}/versions/{version}"

    def run_page(self, run_id: str) -> str:
        """Where people look at a run, its report among the artifacts."""
        experiment = self.client.get_run(run_id).info.experiment_id
        return f"{mlflow.get_tracking_uri()}/#/experiments/{experiment}/runs/{run_id}/artifacts"

    def aliases(self, family: str) -> dict[str, int]:
        """The family's aliases and the versions they point to."""
        try:
            model = self.client.get_registered_model(check_family(family))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {alias: int(version) for alias, version in model.aliases.items()}

    def point(self, family: str, alias: str, version: int | None) -> None:
        """Points an alias to a version, or removes it; does nothing where that is so already."""
        present = self.aliases(family).get(alias)
        if version is None and present is not None:
            self.client.delete_registered_model_alias(family, alias)
        elif version is not None and present != version:
            self.client.set_registered_model_alias(family, alias, str(version))

    def _ensure_model(self, name: str) -> None:
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise

    def _get(self, name: str, version: int) -> ModelVersion:
        try:
            return self.client.get_model_version(name, str(version))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise InvalidInput(
                where=mlflow.get_tracking_uri(),
                expected=f"version {version} of the registered model {name!r}",
                found="no such version",
                remedy="Look at the model's page for the versions there are.",
            ) from error

    def _search(self, query: str) -> Iterator[ModelVersion]:
        token = None
        while True:
            page = self.client.search_model_versions(query, _SEARCH_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _clipped(reason: str) -> str:
    """A reason that fits into a tag; the end is kept, because it says what to do."""
    if len(reason) <= _LONGEST_REASON:
        return reason
    half = _LONGEST_REASON // 2
    return f"{reason[:half]}\n…\n{reason[-half:]}"


def _expert(version: ModelVersion) -> ExpertVersion:
    tags = version.tags
    return ExpertVersion(
        name=version.name,
        version=int(version.version),
        task=tags.get("merge.task", ""),
        source=version.source or "",
        status=tags.get("merge.status", "waiting"),
        reason=tags.get("merge.reason", ""),
        digest=tags.get("merge.digest", ""),
        report=tags.get("merge.report", ""),
    )


def _merged(version: ModelVersion) -> MergedVersion:
    return MergedVersion(
        family=version.name,
        version=int(version.version),
        source=version.source or "",
        run_id=version.run_id or None,
        tags=dict(version.tags),
    )
