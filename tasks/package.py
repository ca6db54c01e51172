"""Turning a merged model into a candidate: it gets what MLflow needs, and is uploaded."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task

from infra.packaging.mlflow_files import add_mlflow_files
from infra.packaging.probe import write_probe
from infra.queue import MergeQueue
from infra.storage.manifest import Manifest, find_whole, hash_files
from merging.gate.decision import TaskScores
from merging.learning.learn import Learned
from merging.models.folder import MANIFEST, MergedFolder
from tasks.retry import SIDE_EFFECT
from tasks.values import Build


@task(**SIDE_EFFECT)
def package_candidate(
    queue: MergeQueue,
    build: Build,
    merged: MergedFolder,
    learned: Learned,
    scores: Sequence[TaskScores],
) -> Manifest:
    """Completes the folder of a candidate that passed and uploads it, the manifest last.

    A folder that is already in the object store, its manifest and all its files, is kept as it is.
    """
    location = queue.attempts.candidate(build.key)
    if whole := find_whole(queue.store, location):
        return whole
    add_mlflow_files(merged, build.family.kind, build.key)
    write_probe(
        merged.probe,
        {s.task: s.candidate for s in scores},
        {m.task: m.expert for m in build.members},
    )
    manifest = Manifest(
        family=queue.name,
        kind=build.family.kind,
        build_key=build.key,
        base=build.family.base,
        base_digest=build.base.digest,
        experts=tuple(member.record for member in build.members),
        data={
            f"{member.task}/{side}": getattr(member.expert.split, side).digest
            for member in build.members
            for side in ("calibration", "gate")
        },
        champion_sequence=build.champion_sequence,
        champion_version=build.deployed.promotion.version if build.deployed else None,
        rung=build.rung,
        settings=build.settings.model_dump(mode="json"),
        policy=build.family.gate.model_dump(mode="json"),
        plan=learned.plan.to_json(),
        files=hash_files(merged.path),
    )
    for path in manifest.files:
        queue.store.upload(merged.path / path, location / path)
    queue.store.write(location / MANIFEST, manifest.to_bytes())
    queue.cache.add(merged.path, manifest.files)
    return manifest
