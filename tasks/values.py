"""What the tasks hand to each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from infra.contracts import ContractResult
from infra.families import Family, Rung
from infra.registry.experts import ExpertVersion
from infra.storage.manifest import Manifest, MergedExpert
from infra.storage.promotions import Promotion
from infra.storage.store import S3Uri
from merging.gate import GateReport
from merging.models.folder import MergedFolder
from merging.settings import MergeSettings

ENGINE = 2
"""It is raised where the engine makes another model of the same inputs."""

if TYPE_CHECKING:  # A sweep that finds nothing opens no expert, so it needs no torch.
    import torch

    from merging.experts.checkpoint import Checkpoint
    from merging.experts.expert import Expert
    from merging.vectors.expert_set import ExpertSet


@dataclass(frozen=True)
class Base:
    """The pretrained checkpoint of the family, on local disk.

    Attributes:
        digest: Of all its files.
        digest_before: Of those that earlier versions read, which is on record for what they merged.
    """

    directory: Path
    digest: str
    digest_before: str = ""

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, opened once for everything that reads it."""
        from merging.experts.checkpoint import Checkpoint

        return Checkpoint.open(self.directory)


@dataclass(frozen=True)
class Pulled:
    """An expert's files on local disk, not yet looked at.

    Attributes:
        remarks: Sentences about what of its folder was not pulled.
    """

    version: ExpertVersion
    source: S3Uri
    directory: Path
    digest: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """One expert of a merged model: its record in the manifest and its content."""

    record: MergedExpert
    expert: Expert
    contract: ContractResult | None = None
    """How its examples table keeps the data contract; None where it was checked earlier."""
    releases: int = 0
    """How often a person put it back into the queue."""
    remarks: tuple[str, ...] = ()
    """Sentences worth knowing of an expert that fits; none where it was checked earlier."""
    replaces: str = ""
    """The deployed task whose place it takes, where that has another name."""
    wish: str = ""
    """Who wants it though it may look worse, and why, as a sentence."""

    @property
    def task(self) -> str:
        """The ML task."""
        return self.record.task

    @property
    def ref(self) -> str:
        """``name/version``, as people write it."""
        return self.record.ref

    @property
    def request(self) -> str:
        """What tells its present turn from an earlier one."""
        return str(self.releases)


@dataclass(frozen=True)
class Withdrawal:
    """A request to take an expert out of the deployed model.

    Attributes:
        record: The expert as the deployed model holds it.
        words: Who asks for it and why, as a sentence.
        expert: Its version in MLflow; None where it was deleted there, which is such a request too.
        lost: Whether nobody asks for it, but its files cannot be had.
    """

    record: MergedExpert
    words: str
    expert: ExpertVersion | None = None
    lost: bool = False

    @property
    def task(self) -> str:
        """The ML task."""
        return self.record.task

    @property
    def ref(self) -> str:
        """``name/version``, as people write it."""
        return self.record.ref

    @property
    def request(self) -> str:
        """What tells this request from an earlier one."""
        return self.words


@dataclass(frozen=True)
class Deployed:
    """The champion on local disk, with the experts it was made of.

    Attributes:
        lost: Its experts whose files cannot be had any more, and why.
    """

    promotion: Promotion
    manifest: Manifest
    folder: MergedFolder
    members: tuple[Member, ...]
    lost: Mapping[MergedExpert, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Build:
    """One attempt at merging: everything that determines its result."""

    family: Family
    rung: Rung
    base: Base
    deployed: Deployed | None
    arrivals: tuple[Member, ...]
    withdrawn: tuple[Withdrawal, ...] = ()

    @classmethod
    def of(
        cls,
        family: Family,
        rung: Rung,
        base: Base,
        deployed: Deployed | None,
        changes: Sequence[Change],
    ) -> Build:
        """The build that makes some changes to the deployed model."""
        arrivals = tuple(c for c in changes if isinstance(c, Member))
        withdrawn = tuple(c for c in changes if isinstance(c, Withdrawal))
        return cls(family, rung, base, deployed, arrivals, withdrawn)

    @property
    def changes(self) -> tuple[Change, ...]:
        """What differs from the deployed model."""
        return (*self.arrivals, *self.withdrawn)

    @property
    def wanted(self) -> Mapping[str, str]:
        """By task, who wants the result whatever it shows there, and why.

        It is for the tasks of the experts that people want; where the build does nothing but take out
        what people want out, it is for all tasks.
        """
        if any(not member.wish for member in self.arrivals):
            return {}
        if self.arrivals:
            return {member.task: member.wish for member in self.arrivals}
        words = " ".join(withdrawal.words for withdrawal in self.withdrawn)
        return dict.fromkeys((member.task for member in self.members), words)

    @property
    def kept(self) -> tuple[Member, ...]:
        """The champion's experts that no arrival replaces and nobody withdrew."""
        new = {change.task for change in self.changes}
        new |= {member.replaces for member in self.arrivals}
        old = self.deployed.members if self.deployed else ()
        return tuple(member for member in old if member.task not in new)

    @property
    def members(self) -> tuple[Member, ...]:
        """All experts in the order of their columns: the champion's, then the arrivals."""
        return self.kept + self.arrivals

    @cached_property
    def experts(self) -> ExpertSet:
        """The experts with their base, opened once for everything that is done with them."""
        from merging.vectors.expert_set import ExpertSet

        experts = tuple(member.expert for member in self.members)
        return ExpertSet(self.base.checkpoint, experts, self.family.kind)

    @property
    def champion_sequence(self) -> int:
        """The promotion that the result will follow; 0 for the first."""
        return self.deployed.promotion.deployment if self.deployed else 0

    @property
    def settings(self) -> MergeSettings:
        """The family's merge settings, changed as the rung asks."""
        if self.rung == "relearn-row":
            return self.family.merge.model_copy(update={"granularity": "row"})
        return self.family.merge

    @cached_property
    def device(self) -> torch.device:
        """Where it is computed."""
        from tasks.device import choose_device

        return choose_device(self.family.device)

    @cached_property
    def merge_key(self) -> str:
        """A digest of all that determines the merged model: the same key means the same model.

        (The last digits depend on the processor and its threads too; see the method's documentation.)
        """
        return _digest(
            {
                "layout": ENGINE,
                "torch": version("torch"),
                "transformers": version("transformers"),
                "device": self.device.type,
                "family": self.family.name,
                "kind": self.family.kind,
                "base": self.base.digest,
                "experts": [[m.task, m.record.digest] for m in self.members],
                "arrivals": [m.task for m in self.arrivals],
                "champion": self.champion_sequence,
                "rung": self.rung,
                "settings": self.settings.model_dump(mode="json"),
            }
        )

    @cached_property
    def key(self) -> str:
        """A digest of all inputs: the same key means the same manifest and the same decision.

        Another policy decides anew and learns nothing anew. How often an expert was released is part
        of it, so that a release really tries again.
        """
        policy = self.family.gate.model_dump(mode="json", exclude={"decision_budget"})
        records = [member.record.model_dump(mode="json") for member in self.members]
        releases = [member.releases for member in self.arrivals]
        wanted = [dict(self.wanted)] if self.wanted else []
        return _digest([self.merge_key, policy, records, releases, *wanted])


@dataclass(frozen=True)
class Rejected:
    """A build that may not go on.

    Attributes:
        build: What was built.
        report: The gate's decision.
        run_id: The MLflow run with the report, the learning curve and the scores.
        page: Where people look at that run.
    """

    build: Build
    report: GateReport
    run_id: str
    page: str


@dataclass(frozen=True)
class Candidate:
    """A build that may go on: it passed, or a person has to decide.

    Attributes:
        build: What was built.
        report: The gate's decision.
        run_id: The MLflow run with the report, the learning curve and the scores.
        page: Where people look at that run.
        manifest: The manifest of its files in the object store.
    """

    build: Build
    report: GateReport
    run_id: str
    page: str
    manifest: Manifest


def _digest(inputs: object) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


Attempt = Candidate | Rejected
"""What came of a build."""

Change = Member | Withdrawal
"""What a build makes different: an expert arrives, or one is taken out."""


def describe(changes: Sequence[Change]) -> str:
    """``movie-review, tweet-sentiment without icd-10``: what some changes are about, for people."""
    arrive = ", ".join(change.task for change in changes if isinstance(change, Member))
    leave = ", ".join(change.task for change in changes if isinstance(change, Withdrawal))
    return " without ".join(filter(None, (arrive or "the others", leave)))
