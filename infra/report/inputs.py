"""What a report can show. Only the decision itself is required; the page shows what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.contracts import ContractResult
from merging.experts.examples import Examples
from merging.gate import GateReport
from merging.learning.state import StepRecord
from merging.models.coefficients import Coefficients
from merging.models.outcomes import Outcomes
from merging.models.precision import Precision

SHOWN_FLIPS = 10


@dataclass(frozen=True)
class Flip:
    """A gate example that the deployed model has right and the candidate wrong.

    Attributes:
        content: The text, a pair of texts, or an encoded image.
        target, before, now: Right answer, the deployed model's and the candidate's, for people.
    """

    content: str | tuple[str, str] | bytes
    target: str
    before: str
    now: str


@dataclass(frozen=True)
class Member:
    """An expert that went into a model.

    Attributes:
        task: Name of the ML task.
        name: The expert's version, for people (``models:/reviews/3``).
        digest: Of its files.
        link: Its page, where it has one.
        remarks: Sentences worth knowing of an arrival.
    """

    task: str
    name: str
    digest: str = ""
    link: str = ""
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the page shows.

    Attributes:
        report: The decision.
        family: Name of the family.
        candidate: What was judged, for people (rung and arrivals, or a version).
        champion: What it was compared with, for people.
        flips: Examples of negative flips by task, see `collect_flips`.
        coefficients, champion_coefficients: Effective coefficients of both models.
        history: Steps of learning.
        cosines: Cosine of each pair of task vectors, by task and task.
        plan: How it was merged, as plain values.
        members, champion_members: The experts in the candidate and in the deployed model.
        settings: The merge settings, as plain values.
        facts: Lineage beyond the experts: base, digests, devices, times.
        contracts: Results of the data contracts.
        links: Pages about this candidate by name.
        precision: What the merged model is written in, and what that took of the merged change.
        reproduce: Commands that rebuild and check it.
    """

    report: GateReport
    family: str
    candidate: str = ""
    champion: str = ""
    flips: Mapping[str, Sequence[Flip]] = field(default_factory=dict)
    coefficients: Coefficients | None = None
    champion_coefficients: Coefficients | None = None
    history: Sequence[StepRecord] = ()
    cosines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    plan: Mapping[str, object] = field(default_factory=dict)
    members: Sequence[Member] = ()
    champion_members: Sequence[Member] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    contracts: Sequence[ContractResult] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    precision: Precision | None = None
    reproduce: Sequence[str] = ()


def collect_flips(
    keys: Sequence[str],
    examples: Examples,
    candidate: Outcomes,
    reference: Outcomes,
    limit: int = SHOWN_FLIPS,
) -> tuple[Flip, ...]:
    """The first `limit` negative flips with their content.

    Args:
        keys: `TaskDecision.negative_flips`.
        examples: The task's gate examples.
        candidate: The candidate's answers on them.
        reference: The answers of the model it was compared with.
        limit: Most flips to collect.
    """
    place = {key: index for index, key in enumerate(examples.keys)}
    answer = {key: index for index, key in enumerate(candidate.keys)}
    return tuple(
        Flip(
            content=examples.inputs[place[key]],
            target=_answer(candidate.targets[answer[key]], examples.labels),
            before=_answer(reference.predicted[answer[key]], examples.labels),
            now=_answer(candidate.predicted[answer[key]], examples.labels),
        )
        for key in keys[:limit]
    )


def _answer(value: int | str, labels: Sequence[str]) -> str:
    return labels[value] if isinstance(value, int) and value in range(len(labels)) else str(value)
