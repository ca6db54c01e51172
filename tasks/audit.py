"""The checks of an audit. Each returns findings in words; none means that all is well."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.queue import MergeQueue
from infra.registry.merged import CHAMPION
from infra.storage.promotions import Promotion
from merging.errors import NotReproduced
from merging.experts.heads import Head
from merging.models.materialise import verify
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet
from tasks.device import choose_device
from tasks.evaluate import ask_champion
from tasks.retry import SIDE_EFFECT
from tasks.values import Base, Deployed


@task(**SIDE_EFFECT)
def check_mirror(queue: MergeQueue, newest: Promotion) -> tuple[str, ...]:
    """Whether MLflow's alias and tags say what the promotion log says."""
    findings = []
    alias = queue.registry.merged.aliases(queue.name).get(CHAMPION)
    if alias != newest.version:
        findings.append(
            f"The alias {CHAMPION} points to {alias}, but version {newest.version} is deployed."
        )
    version = queue.registry.merged.get(queue.name, newest.version)
    if version.manifest_sha256 != newest.manifest_sha256:
        findings.append(f"The manifest digest on version {newest.version} was changed.")
    if str(version.location) != newest.location:
        findings.append(f"The source of version {newest.version} is not {newest.location}.")
    return tuple(findings)


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
    findings = []
    for member in deployed.members:
        judged = ask_champion(queue, deployed, member)
        head = Head.load(deployed.folder.head(member.task), member.task)
        now = queue.engine.evaluate(backbone, head, member.expert.split.gate, device)
        if judged is not None and now.correct.sum() != judged.correct.sum():
            findings.append(
                f"{member.task}: judged at {judged.accuracy:.4f}, now {now.accuracy:.4f}."
            )
    return tuple(findings)
