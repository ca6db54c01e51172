"""Pulling the base, the champion and the experts from S3, digests checked, through the cache."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prefect import get_run_logger, task

from infra.errors import Corrupt, Unreadable
from infra.names import check_task
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from infra.storage.cache import sha256_file, sha256_tree
from infra.storage.layout import (
    files_in,
    find_layout,
    is_wanted,
    left_aside,
    tree_digests,
    wanted_files,
)
from infra.storage.manifest import MergedExpert
from infra.storage.promotions import Promotion
from infra.storage.store import S3Uri, StoredObject
from merging.errors import InvalidInput
from merging.experts.expert import open_expert
from merging.kinds import ModelKind
from merging.models.folder import MergedFolder
from merging.preflight.base import check_base_names, open_base
from tasks.retry import SIDE_EFFECT
from tasks.values import Base, Deployed, Member, Pulled


@task(**SIDE_EFFECT)
def pull_base(queue: MergeQueue) -> Base:
    """Pulls the base checkpoint of the family, as :func:`fetch_base` does.

    Where it cannot be had, the copy on this machine that the deployed model was merged from will do.
    """
    try:
        return fetch_base(queue)
    except (InvalidInput, Unreadable) as error:
        if (kept := _kept_base(queue)) is None:
            raise
        words = "%s The copy on this machine, from which the deployed model was merged, is used."
        get_run_logger().warning(words, error)
        return kept


def _kept_base(queue: MergeQueue) -> Base | None:
    """The base of the deployed model, where all its files are still in the cache."""
    newest = queue.promotions.newest()
    if newest is None:
        return None
    found = queue.cache.find(queue.manifest(newest.model).base_digest)
    return Base(found[0], *tree_digests(found[1])) if found else None


def fetch_base(queue: MergeQueue) -> Base:
    """The base checkpoint of the family on local disk.

    Raises:
        InvalidInput: There is none, or no whole one; where its files' names show it, nothing was
            downloaded.
    """
    uri = queue.family.base_uri
    objects = _wanted(queue.store.list(uri), uri)
    if not objects:
        raise InvalidInput(
            where=f"base of family {queue.name!r}",
            expected=f"a checkpoint below {uri}",
            found="nothing",
            remedy="Upload the base with `supermerge upload-base`, or correct the family file.",
        )
    check_base_names([item.path for item in objects], queue.family.kind, str(uri))
    directory, files = queue.cache.pull(objects)
    try:
        open_base(directory, queue.family.kind).close()
    except InvalidInput as error:
        raise InvalidInput(
            where=f"base of family {queue.name!r}, {Path(error.where).name} below {uri}",
            expected=error.expected,
            found=error.found,
            remedy=f"{error.remedy} Then upload the base again with `supermerge upload-base`.",
        ) from error
    return Base(directory, *tree_digests(files))


def local_base(directory: Path, kind: ModelKind) -> Base:
    """A base checkpoint that lies in a folder here.

    Raises:
        InvalidInput: It is no whole checkpoint.
    """
    files = files_in(directory)
    check_base_names(files, kind, str(directory))
    open_base(directory, kind).close()
    return Base(directory, *tree_digests({path: sha256_file(directory / path) for path in files}))


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
    if not objects:
        raise InvalidInput(
            where=f"source of {version.ref}",
            expected="the files of an expert",
            found=f"nothing below {source}",
            remedy="Register it again with `supermerge register`.",
        )
    paths = [item.path for item in objects]
    find_layout(paths, str(source))
    directory, files = queue.cache.pull(_wanted(objects, source))
    digest = sha256_tree(files)
    queue.contents.record(digest, files)
    queue.registry.experts.record_digest(version, digest)
    return Pulled(version, source, directory, digest, left_aside(paths, str(source)))


@task(**SIDE_EFFECT)
def pull_champion(queue: MergeQueue, base: Base, promotion: Promotion) -> Deployed:
    """Pulls the deployed model and every expert that it was made of.

    An expert whose files cannot be had is named in it, and keeps no other from being pulled.

    Raises:
        Corrupt: The base is not the one that it was merged from, or the model's files are not what was
            recorded, or no expert's are.
    """
    manifest = queue.manifest(promotion.model)
    if manifest.base_digest not in (base.digest, base.digest_before):
        raise Corrupt(
            where=queue.family.base,
            expected=f"digest {manifest.base_digest}, from which the deployed version "
            f"{promotion.version} was merged",
            found=base.digest,
            remedy="A family has one base for good: restore it, or start a new family for the new "
            "base.",
        )
    found = queue.cache.find(sha256_tree(manifest.files))
    if found is None:
        there = queue.store.list(promotion.model.location)
        found = queue.cache.pull(there, manifest.files)
    directory, _ = found
    members, lost = [], {}
    for record in manifest.experts:
        try:
            members.append(_pull_member(queue, base, record))
        except (Corrupt, Unreadable, InvalidInput) as error:
            lost[record] = error
    if lost and not members:
        raise next(iter(lost.values()))
    why = {record: str(error) for record, error in lost.items()}
    return Deployed(promotion, manifest, MergedFolder(directory), tuple(members), why)


def _pull_member(queue: MergeQueue, base: Base, record: MergedExpert) -> Member:
    source = S3Uri.parse(record.source)
    found = queue.cache.find(record.digest) or _pull_recorded(queue, record, source)
    directory, files = found
    if record.digest not in tree_digests(files):
        raise Corrupt(
            where=f"{source} (expert of {record.task!r})",
            expected=f"digest {record.digest}",
            found=sha256_tree(files),
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
            base=base.checkpoint,
            examples=directory / layout.examples,
            settled=True,
        ),
    )


def is_lost(queue: MergeQueue, record: MergedExpert) -> bool:
    """Whether a merged expert's files are gone from the object store, or damaged there."""
    try:
        _, files = _pull_recorded(queue, record, S3Uri.parse(record.source))
    except (Corrupt, Unreadable, InvalidInput):
        return True
    return record.digest not in tree_digests(files)


def _pull_recorded(
    queue: MergeQueue, record: MergedExpert, source: S3Uri
) -> tuple[Path, dict[str, str]]:
    """An expert's files as they were when it was looked at; what was added to its folder is left."""
    there = queue.store.list(source)
    files = queue.contents.find(record.digest)
    if files is None:  # It was looked at by an earlier release.
        directory, files = queue.cache.pull(_wanted(there, source))
        if record.digest in tree_digests(files):
            queue.contents.record(record.digest, files)
        return directory, files
    added = sorted(item.path for item in there if item.path not in files and is_wanted(item.path))
    if added:
        words = "%s: %s came after the expert was merged and is left aside"
        get_run_logger().warning(words, source, ", ".join(added[:10]))
    if missing := sorted(set(files) - {item.path for item in there}):
        raise Corrupt(
            where=f"{source} (expert of {record.task!r})",
            expected="the files of the expert",
            found=f"that {', '.join(missing[:10])} is gone",
            remedy="Restore it from the bucket's older versions, or take the expert out: "
            f"supermerge withdraw {record.ref}",
        )
    return queue.cache.pull([item for item in there if item.path in files], files)


def _wanted(objects: Iterable[StoredObject], folder: S3Uri) -> list[StoredObject]:
    by_path = {item.path: item for item in objects}
    return [by_path[path] for path in wanted_files(by_path, str(folder))]


def _check_bucket(queue: MergeQueue, source: S3Uri, who: str) -> None:
    allowed = {queue.family.bucket, *queue.family.expert_buckets}
    if source.bucket not in allowed:
        raise InvalidInput(
            where=f"source of {who}",
            expected=f"one of the family's buckets: {', '.join(sorted(allowed))}",
            found=str(source),
            remedy="Copy the expert there, or add the bucket to `expert_buckets`.",
        )
