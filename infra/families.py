"""Family files: one validated YAML file per line of merged models, ``<families>/<family>.yaml``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    StringConstraints,
    ValidationError,
    model_validator,
)

from infra.names import Name, check_family
from infra.storage.store import S3Uri
from merging.errors import InvalidInput
from merging.gate import GatePolicy
from merging.kinds import ModelKind
from merging.settings import MergeSettings

Rung = Literal["chain", "relearn", "relearn-row"]
S3Location = Annotated[
    str, StringConstraints(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/\S+$")
]


def _check_cron(line: str) -> str:
    try:
        CronSim(line, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(f"{line!r} is no line of cron: {error}") from None
    return line


Cron = Annotated[str, AfterValidator(_check_cron)]


class Target(BaseModel):
    """Where notifications go: a webhook address or a saved Prefect notification block.

    Attributes:
        webhook: Address that each notice is posted to, as JSON.
        prefect_block: Name of a saved block, `type/name`, as its page in Prefect shows it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    webhook: HttpUrl | None = None
    prefect_block: str | None = None


class Family(BaseModel):
    """How one family is merged, judged and promoted.

    Attributes:
        name: The file's name; the registered model in MLflow has it too.
        kind: What its models do.
        base: Folder of the base checkpoint; `supermerge upload-base` puts it there.
        bucket: Bucket of the family's merged models, reports and promotion log.
        expert_buckets: Further buckets that experts may be read from.
        promotion: `auto` deploys what passes the gate; with `review` it waits until a person
            decides in MLflow.
        ladder: What is tried, in this order, until the gate passes.
        device: What computes; `auto` takes an accelerator where there is one.
        merge: How coefficients are learned.
        gate: When a candidate may be promoted.
        notify: Who is told of what happens.
        schedule: When the queue is swept for what no event told of, in the form of cron; null for
            never.
        audit_schedule: When the deployed model is audited, in the same form.
        gc_schedule: When what nothing needs any more is looked for, and removed, in the same form.
        keep_days: Days for which `supermerge gc` keeps what nothing needs any more, from when it sees
            so first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    kind: ModelKind
    base: S3Location
    bucket: str
    expert_buckets: tuple[str, ...] = ()
    promotion: Literal["auto", "review"] = "auto"
    ladder: tuple[Rung, ...] = Field(default=("relearn",), min_length=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    merge: MergeSettings = MergeSettings()
    gate: GatePolicy = GatePolicy()
    notify: tuple[Target, ...] = ()
    schedule: Cron | None = "*/15 * * * *"
    audit_schedule: Cron | None = "30 3 * * *"
    gc_schedule: Cron | None = "50 3 * * *"
    keep_days: int = Field(default=14, ge=0)

    @model_validator(mode="after")
    def _each_rung_is_another_merge(self) -> Self:
        rungs = set(self.ladder)
        if len(rungs) < len(self.ladder):
            raise ValueError("ladder: each rung once")
        if {"relearn", "relearn-row"} <= rungs and self.merge.granularity == "row":
            raise ValueError(
                "ladder: relearn is by row already; set merge.granularity to tensor, or leave one out"
            )
        if "chain" in rungs and self.merge.preprocess == "tsv-m":
            raise ValueError("ladder: a new expert changes all vectors of tsv-m, so no chain")
        return self

    @property
    def base_uri(self) -> S3Uri:
        """The folder of the base checkpoint."""
        return S3Uri.parse(self.base)

    @property
    def root(self) -> S3Uri:
        """The folder of everything that belongs to this family."""
        return S3Uri(self.bucket, self.name)


def load_family(name: str, directory: Path) -> Family:
    """Reads and validates the file of one family.

    Raises:
        InvalidInput: There is no such family, or its file has unknown keys or values.
    """
    path = directory / f"{check_family(name)}.yaml"
    if not path.is_file():
        known = ", ".join(list_families(directory)) or "none"
        raise InvalidInput(
            where=str(directory),
            expected=f"a family file {path.name}",
            found=f"families: {known}",
            remedy="Write the file, or use one of the families there are.",
        )
    try:
        content = yaml.safe_load(path.read_text())
        family = Family.model_validate(content)
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise InvalidInput(
            where=str(path),
            expected="a family file",
            found=str(error),
            remedy="Correct the named keys; docs/families.md lists them all.",
        ) from error
    if family.name != name:
        raise InvalidInput(
            where=str(path),
            expected=f"name: {name}",
            found=f"name: {family.name}",
            remedy="The file and the family in it must have one name.",
        )
    return family


def list_families(directory: Path) -> tuple[str, ...]:
    """The names of all family files in a directory."""
    return tuple(sorted(path.stem for path in directory.glob("*.yaml")))
