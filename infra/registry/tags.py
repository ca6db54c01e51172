"""Every tag that the queue reads or writes in MLflow, and what it may say.

People and earlier releases write tags as well, so reading never fails: what cannot be understood
leaves its field empty and stands among :attr:`Tags.malformed`. Writing sets or removes the tags that
differ and leaves all others alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

FAMILY = "merge.family"
TASK = "merge.task"
WITHDRAW = "merge.withdraw"
PRIORITY = "merge.priority"
WANTED = "merge.wanted"
STATUS = "merge.status"
REASON = "merge.reason"
APPROVAL = "approval_status"
REVIEW_REASON = "merge.review-reason"
VALIDATION = "validation_status"
BUILD_KEY = "merge.build-key"
VERDICT = "merge.verdict"

ExpertStatus = Literal["waiting", "merging", "merged", "rejected", "held", "withdrawn"]
MergedStatus = Literal["candidate", "promoted", "superseded", "rolled-back", "rejected"]
Validation = Literal["passed", "pending", "failed"]
Approval = Literal["approved", "rejected"]

_PERSONS = {APPROVAL, REVIEW_REASON, "merge.decided", "merge.decided-by", "merge.review"}
_LONGEST = 8_000  # Characters of a tag that are kept; a table of mismatched tensors can be longer.


def is_a_persons(tag: str) -> bool:
    """Whether people write this tag, or the queue in answer to them: it is not the queue's to put right."""
    return tag in _PERSONS or tag.startswith(WITHDRAW)


def _lowered(value: Any) -> Any:
    """People write a status as they like: ``Approved``, or with a space behind it."""
    return value.strip().lower() if isinstance(value, str) else value


def _items(value: Any) -> Any:
    return tuple(item.strip() for item in value.split(",")) if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in _items(value)]
    if not all(name and expert for name, _, expert in pairs):
        raise ValueError("expected task=name/version, separated by commas")
    return {name: expert for name, _, expert in pairs}


def _joined(pairs: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={expert}" for name, expert in pairs.items())


Lowered = BeforeValidator(_lowered)
Names = Annotated[tuple[str, ...], BeforeValidator(_items), PlainSerializer(", ".join)]
Pairs = Annotated[Mapping[str, str], BeforeValidator(_pairs), PlainSerializer(_joined)]


class Tags(BaseModel):
    """Some tags of a model version. The fields stand in the order in which they are written."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    malformed: Mapping[str, str] = Field(default_factory=dict, exclude=True)
    """Tags that say something else than they may, by name, as they stand in MLflow."""

    @classmethod
    def read(cls, stored: Mapping[str, str]) -> Self:
        """The tags among all those of a version; an empty one counts as missing."""
        names = [field.alias for field in cls.model_fields.values() if field.alias]
        values: dict[str, Any] = {name: stored[name] for name in names if stored.get(name)}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            malformed = {str(fault["loc"][0]) for fault in error.errors()}
            values["malformed"] = {name: values.pop(name) for name in sorted(malformed)}
            return cls.model_validate(values)

    def write(self) -> dict[str, str]:
        """The tags as MLflow stores them, without those that say nothing."""
        values = self.model_dump(by_alias=True).items()
        return {name: _clipped(str(value)) for name, value in values if value not in (None, "")}

    def changes(self, **values: object) -> dict[str, str | None]:
        """What has to be set, or removed (None), so that the given fields have new values."""
        before, after = self.write(), self.model_copy(update=values).write()
        return {
            name: after.get(name)
            for name in (field.alias for field in type(self).model_fields.values() if field.alias)
            if before.get(name) != after.get(name)
        }


class ExpertTags(Tags):
    """What the queue knows of an expert, on its version.

    Attributes:
        family: The family that it asks to be merged into.
        task: Its ML task, as it was written; not validated yet.
        digest: Digest of its content, once that was looked at.
        reason: Why its status is what it is.
        of: The version that these tags were written on, as ``name/version``, where it is a copy of another:
            MLflow copies the tags as well.
        report: Where the report of the decision on it is.
        releases: How often a person put it back into the queue.
        priority: Experts with a higher one are merged first, by themselves; none counts as 0.
        replaces: The deployed task whose place it takes, where it has another name.
        wanted_by: Who wants it.
        wanted: Why a person wants it though it may look worse; what fails on its task is then left to a
            person's review.
        withdrawn_by: Who asked for it to be taken out.
        withdraw_reason: Why that person did.
        withdraw: Whether a person asks for it to be taken out of the line and of the deployed model.
        status: Where in its life it is; None where the tag is malformed. It is written last,
            because it is what wakes the queue.
    """

    family: str = Field("", alias=FAMILY)
    task: str = Field("", alias=TASK)
    digest: str = Field("", alias="merge.digest")
    reason: str = Field("", alias=REASON)
    report: str = Field("", alias="merge.report")
    of: str = Field("", alias="merge.of")
    releases: int | None = Field(None, alias="merge.releases", ge=0)
    priority: int | None = Field(None, alias=PRIORITY)
    replaces: str = Field("", alias="merge.replaces")
    wanted_by: str = Field("", alias="merge.wanted-by")
    wanted: str = Field("", alias=WANTED)
    withdrawn_by: str = Field("", alias="merge.withdrawn-by")
    withdraw_reason: str = Field("", alias="merge.withdraw-reason")
    withdraw: Annotated[Literal["true", "false"] | None, Lowered] = Field(None, alias=WITHDRAW)
    status: Annotated[ExpertStatus | None, Lowered] = Field(None, alias=STATUS)

    @classmethod
    def read(cls, stored: Mapping[str, str]) -> Self:
        """As :meth:`Tags.read`; an expert without a status waits."""
        tags = super().read(stored)
        unset = tags.status is None and STATUS not in tags.malformed
        return tags.model_copy(update={"status": "waiting"}) if unset else tags

    @property
    def wish(self) -> str:
        """Who wants it all the same and why, as a sentence; "" where nobody said so."""
        if not self.wanted:
            return ""
        return f"Wanted by {self.wanted_by or f'a person, by {WANTED} in MLflow'}: " + (
            f"{self.wanted.removesuffix('.')}."
        )

    @property
    def is_withdrawn(self) -> bool:
        """Whether a person asks for it to be taken out."""
        return self.withdraw == "true"

    @property
    def withdrawal(self) -> str:
        """Who asks for that and why, as a sentence."""
        reason = f": {self.withdraw_reason.removesuffix('.')}" if self.withdraw_reason else ""
        return f"Withdrawn by {self.withdrawn_by or f'a person, by {WITHDRAW} in MLflow'}{reason}."


class CandidateTags(Tags):
    """What the queue and its reviewers say of a merged model, on its version.

    Attributes:
        validation: What the gate decided; only the queue writes it.
        manifest_sha256: The digest of its manifest when it was registered.
        champion_at_build: The version that it was built on, or ``none``.
        experts: The experts in it, ``name/version`` by task.
        arrivals: The tasks of the experts that are new in it.
        withdrawn: The experts, as ``name/version``, that were taken out.
        rung: The rung of the ladder that built it.
        run_id: The Prefect flow run that registered it.
        decided: What the person decided who is named next; a command writes it.
        decided_by: Who reviewed it.
        review_reason: Why that person decided so.
        review: What came of the review, in words.
        reason: Why its status is what it is.
        status: Where in its life it is.
        approval: What a person decided. It is written last, because it starts the promotion.
    """

    validation: Annotated[Validation | None, Lowered] = Field(None, alias=VALIDATION)
    manifest_sha256: str = Field("", alias="merge.manifest-sha256")
    champion_at_build: int | Literal["none"] | None = Field(None, alias="merge.champion-at-build")
    experts: Pairs = Field(default_factory=dict, alias="merge.experts")
    arrivals: Names = Field((), alias="merge.arrivals")
    withdrawn: Names = Field((), alias="merge.withdrawn")
    rung: str = Field("", alias="merge.rung")
    run_id: str = Field("", alias="merge.run-id")
    decided: Annotated[Approval | None, Lowered] = Field(None, alias="merge.decided")
    decided_by: str = Field("", alias="merge.decided-by")
    review_reason: str = Field("", alias=REVIEW_REASON)
    review: str = Field("", alias="merge.review")
    reason: str = Field("", alias=REASON)
    status: Annotated[MergedStatus | None, Lowered] = Field(None, alias=STATUS)
    approval: Annotated[Approval | None, Lowered] = Field(None, alias=APPROVAL)

    @property
    def is_anothers(self) -> bool:
        """Whether name and reason belong to another decision than the one that stands there now."""
        return self.approval is not None and self.decided not in (None, self.approval)

    @property
    def is_reviewed(self) -> bool:
        """Whether a person wrote a decision, be it one that cannot be understood."""
        return self.approval is not None or APPROVAL in self.malformed


def _clipped(value: str) -> str:
    """A value that fits into a tag; its end is kept, because a reason ends with what to do."""
    if len(value) <= _LONGEST:
        return value
    half = _LONGEST // 2
    return f"{value[:half]}\n…\n{value[-half:]}"
