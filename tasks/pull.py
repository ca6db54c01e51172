"""Pulling the base, the champion and the experts from S3, digests checked, through the cache."""

from __future__ import annotations

from prefect import task

from infra.errors import Corrupt
from infra.names import check_task
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from infra.storage.cache import sha256_tree
from infra.storage.layout import find_layout, is_wanted
from infra.storage.manifest import Manifest, MergedExpert
from infra.storage.promotions import Promotion
from infra.storage.store import S3Uri
from merging.errors import InvalidInput
from merging.experts.expert import open_expert
from merging.models.folder import MergedFolder
from merging.preflight.base import check_base
from tasks.retry import SIDE_EFFECT
from tasks.values import Base, Deployed, Member, Pulled


@task(**SIDE_EFFECT)
def pull_base(queue: MergeQueue) -> Base:
    """Pulls the base checkpoint of the family, as :func:`fetch_base` does."""
    return fetch_base(queue)


def fetch_base(queue: MergeQueue) -> Base:
    """The base checkpoint of the family on local disk.

    Raises:
        InvalidInput: There is none, or no whole one; nothing was downloaded.
    """
    uri = queue.family.base_uri
    objects = [item for item in queue.store.list(uri) if is_wanted(item.path)]
    if not objects:
        raise InvalidInput(
            where=f"base of family {queue.name!r}",
            expected=f"a checkpoint below {uri}",
            found="nothing",
            remedy="Upload the base with `supermerge upload-base`, or correct the family file.",
        )
    check_base([item.path for item in objects], queue.family.kind, str(uri))
    directory, files = queue.cache.pull(objects)
    return Base(directory, sha256_tree(files))


@task(**SIDE_EFFECT)
def pull_expert(queue: MergeQueue, version: ExpertVersion) -> Pulled:
    """Pulls one registered expert.

    Raises:
        InvalidInput: Its task or source is malformed, or its folder holds no single expert.
    """
    check_task(version.task)
    source = queue.registry.experts.locate(version)
    _check_bucket(queue, source, version.ref)
    objects = queue.store.list(source)
    find_layout((item.path for item in objects), str(source))
    directory, files = queue.cache.pull(item for item in objects if is_wanted(item.path))
    digest = sha256_tree(files)
    queue.registry.experts.record_digest(version, digest)
    return Pulled(version, source, directory, digest)


@task(**SIDE_EFFECT)
def pull_champion(queue: MergeQueue, promotion: Promotion) -> Deployed:
    """Pulls the deployed model and every expert that it was made of.

    Raises:
        Corrupt: Some stored file is not what was recorded for it.
    """
    location = S3Uri.parse(promotion.location)
    manifest = Manifest.read(queue.store, location, promotion.manifest_sha256)
    directory, _ = queue.cache.pull(queue.store.list(location), manifest.files)
    members = tuple(_pull_member(queue, record) for record in manifest.experts)
    return Deployed(promotion, manifest, MergedFolder(directory), members)


def _pull_member(queue: MergeQueue, record: MergedExpert) -> Member:
    source = S3Uri.parse(record.source)
    objects = [item for item in queue.store.list(source) if is_wanted(item.path)]
    directory, files = queue.cache.pull(objects)
    digest = sha256_tree(files)
    if digest != record.digest:
        raise Corrupt(
            where=f"{source} (expert of {record.task!r})",
            expected=f"digest {record.digest}",
            found=digest,
            remedy="The expert was changed after it was merged; restore it from the bucket's older "
            "versions, or roll back.",
        )
    layout = find_layout(files, str(source))
    return Member(
        record,
        open_expert(
            record.task,
            directory / layout.checkpoint,
            queue.family.kind,
            examples=directory / layout.examples,
        ),
    )


def _check_bucket(queue: MergeQueue, source: S3Uri, who: str) -> None:
    allowed = {queue.family.bucket, *queue.family.expert_buckets}
    if source.bucket not in allowed:
        raise InvalidInput(
            where=f"source of {who}",
            expected=f"one of the family's buckets: {', '.join(sorted(allowed))}",
            found=str(source),
            remedy="Copy the expert there, or add the bucket to `expert_buckets`.",
        )
