"""The checks of an audit. Each returns findings in words; none means that all is well."""

from __future__ import annotations

from itertools import pairwise
from operator import ne

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.queue import MergeQueue
from infra.registry.merged import CHAMPION, find_version
from infra.storage.manifest import find_whole
from infra.storage.promotions import Promotion
from merging.errors import NotReproduced
from merging.experts.heads import Head
from merging.models.materialise import verify
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet
from tasks.device import choose_device
from tasks.evaluate import ask_champion
from tasks.mirror import models_by_alias
from tasks.rebuild import changed_pages
from tasks.retry import SIDE_EFFECT
from tasks.values import Base, Deployed

_TIES = 0.01  # Share of answers that another processor may give otherwise, where two are as likely.


@task(**SIDE_EFFECT)
def check_log(queue: MergeQueue) -> tuple[str, ...]:
    """Whether the log follows from its first entry, and whether all that was deployed is still there.

    Raises:
        Corrupt: An entry is missing or damaged.
    """
    entries = queue.promotions.entries()
    findings = [
        f"Promotion {entry.sequence} says that it followed version {entry.previous}, but promotion "
        f"{before.sequence} deployed version {before.version}."
        for before, entry in pairwise(entries)
        if entry.previous != before.version
    ]
    for model in dict.fromkeys(entry.model for entry in entries[:-1]):
        if model != entries[-1].model:
            whole = find_whole(queue.store, model.location, model.manifest_sha256)
            if whole is None:
                findings.append(
                    f"Version {model.version} cannot be gone back to: the files in {model.location} "
                    "are not those that were recorded."
                )
    return tuple(findings)


@task(**SIDE_EFFECT)
def check_mirror(queue: MergeQueue, newest: Promotion) -> tuple[str, ...]:
    """Whether MLflow's aliases, and every tag that the queue wrote, say what is on record."""
    entries = [e for e in queue.promotions.entries() if e.sequence <= newest.sequence]
    versions = queue.registry.merged.of(queue.name)
    aliases = queue.registry.merged.aliases(queue.name)
    findings = []
    for alias, model in models_by_alias(entries).items():
        version = find_version(model, versions) if model else None
        if model and not version:
            findings.append(f"Version {model.version} of {queue.name} is gone from MLflow.")
        elif aliases.get(alias) != (version and version.version):
            what = "is deployed" if alias == CHAMPION else "was deployed before"
            wanted = f"version {version.version} {what}" if version else f"no version {what}"
            findings.append(f"The alias {alias} points to {aliases.get(alias)}, but {wanted}.")
    findings += [
        f"The tag {name} of {page.name}/{page.version} says {_short(page.tags.get(name))}, but the "
        f"queue wrote {_short(written)}."
        for page, changes in changed_pages(queue)
        for name, written in changes.items()
    ]
    if findings:
        findings.append(f"supermerge rebuild {queue.name} makes them right.")
    return tuple(findings)


def _short(value: str | None) -> str:
    return "nothing" if value is None else repr(value[:80])


@task(cache_policy=NO_CACHE, persist_result=False)
def check_rebuild(base: Base, deployed: Deployed) -> tuple[str, ...]:
    """Whether base, experts and coefficients still give the deployed bytes."""
    try:
        experts = tuple(member.expert for member in deployed.members)
        verify(ExpertSet(base.checkpoint, experts, deployed.manifest.kind), deployed.folder)
    except NotReproduced as error:
        return (str(error),)
    return ()


@task(**SIDE_EFFECT)
def check_scores(queue: MergeQueue, deployed: Deployed) -> tuple[str, ...]:
    """Whether the champion, asked again, still gives the answers that were judged."""
    device = choose_device(queue.family.device)
    backbone = Backbone.open(deployed.folder.model, queue.family.kind)
    report = queue.attempts.report(deployed.promotion.model)
    decided = {d.task: d for d in report.tasks} if report else {}
    findings = []
    for member in deployed.members:
        judged = ask_champion(queue, deployed, member)
        head = Head.load(deployed.folder.head(member.task), member.task)
        now = queue.engine.evaluate(backbone, head, member.expert.split.gate, device)
        decision = decided.get(member.task)
        at = judged.accuracy if judged is not None else now.accuracy
        if decision and decision.candidate and decision.metric == "accuracy":
            at = decision.candidate.value
        others = sum(map(ne, judged.predicted, now.predicted)) if judged is not None else 0
        if round(at * len(now)) != now.correct.sum():
            findings.append(f"{member.task}: judged at {at:.4f}, now {now.accuracy:.4f}.")
        elif others > _TIES * len(now):
            findings.append(f"{member.task}: {others} of {len(now)} answers are not those judged.")
    return tuple(findings)
