"""Bringing an expert or a base into the object store, checked before anything is uploaded."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from infra.errors import Refused
from infra.families import load_family
from infra.names import check_task
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from infra.storage.cache import sha256_file, sha256_tree
from infra.storage.layout import files_in, left_aside, paths_in, tree_digests
from infra.storage.manifest import Manifest
from infra.storage.promotions import PromotionLog
from infra.storage.store import S3Uri
from merging.errors import InvalidInput
from merging.preflight.base import check_base_names, try_base
from tasks.files import expert_files
from tasks.inspection import Told
from tasks.preflight import open_checked
from tasks.pull import fetch_base

Report = Callable[[str], None]
"""Is told each step in words, before it is taken."""


def register_expert(
    queue: MergeQueue,
    task_name: str,
    directory: Path,
    examples: Path | None = None,
    report: Report = lambda _: None,
    told: Told = lambda _: None,
    wishes: Mapping[str, object] = MappingProxyType({}),
) -> ExpertVersion:
    """Checks an expert's folder, uploads it and creates its version.

    The same content registered twice is the same version.

    Args:
        queue: The family's queue.
        task_name: The ML task.
        directory: The folder with the checkpoint and, unless it is given apart, the examples table.
        examples: The examples table, where it is not in the folder.
        report: Is told what is being done.
        told: Is told what each check found.
        wishes: What the person says of it, by the fields of its tags.

    Raises:
        InvalidInput, IncompatibleExpert: It cannot be merged; nothing was uploaded.
    """
    check_task(task_name)
    check_no_family(queue, f"{queue.name}-{task_name}")
    report(f"Fetching the base {queue.family.base}")
    base = fetch_base(queue)
    report("Checking weights, tokenizer and examples")
    open_checked(
        queue.family,
        base,
        task_name,
        directory,
        str(directory),
        told=told,
        examples=examples,
        prove=queue.engine.prove,
    )
    files = expert_files(directory, examples, queue.family.kind)
    digest = sha256_tree({path: sha256_file(file) for path, file in files.items()})
    folder = queue.family.root / "experts" / task_name
    known = queue.registry.experts.find(queue.name, task_name, digest)
    if known and not known.source.startswith(f"{folder}/"):
        known = None
    if known and known.status == "rejected":
        if set(files) <= {item.path for item in queue.store.list(S3Uri.parse(known.source))}:
            return known
        known = None
    # What no version needs may just be being removed, so its folder is not used again.
    fresh = folder / f"{digest}-{secrets.token_hex(4)}"
    target = S3Uri.parse(known.source) if known else fresh
    _upload(queue, files, target, report)
    report("Registering it in MLflow")
    return queue.registry.experts.register(queue.name, task_name, target, digest, **wishes)


def rename(queue: MergeQueue, expert: ExpertVersion, task_name: str, who: str) -> ExpertVersion:
    """Registers the content of an expert under another task, whose place it takes in one merge.

    Raises:
        Refused: Its content was never looked at.
        InvalidInput: The name cannot be that of a task.
    """
    check_task(task_name)
    check_no_family(queue, f"{queue.name}-{task_name}")
    if not expert.tags.digest:
        raise Refused(
            f"{expert.ref} was not looked at yet, so it has no content to rename.",
            f"Correct its tag merge.task, or withdraw it and register it as {task_name}.",
        )
    source = queue.registry.experts.locate(expert)
    deployed = expert.status == "merged"
    renamed = queue.registry.experts.register(
        queue.name,
        task_name,
        source,
        expert.tags.digest,
        replaces=expert.task if deployed else "",
        wanted=f"renamed from {expert.task}",
        wanted_by=who,
    )
    if not deployed:
        queue.registry.experts.withdraw(expert, who, f"renamed to {task_name}")
    return renamed


def upload_base(queue: MergeQueue, directory: Path, report: Report = lambda _: None) -> None:
    """Uploads the base checkpoint of a family.

    Raises:
        InvalidInput: It is no whole checkpoint, or does not answer; nothing was uploaded.
        Refused: Models are deployed that were merged from another base.
    """
    files = {path: directory / path for path in files_in(directory)}
    check_no_log(queue, files)
    check_base_names(files, queue.family.kind, str(directory))
    report("Loading it and asking it something")
    remarks = try_base(directory, queue.family.kind)
    _upload(queue, files, queue.family.base_uri, report)
    for remark in (*left_aside(paths_in(directory), str(directory)), *remarks):
        report(f"Worth knowing: {remark}")


def check_no_family(queue: MergeQueue, name: str) -> None:
    """Raises InvalidInput where a registered model of this name is that of a family's merged models."""
    if name in queue.settings.family_names():
        raise InvalidInput(
            where=f"experts of family {queue.name!r}",
            expected="a task whose registered model has a name of its own",
            found=f"{name}, the name of the merged models of family {name!r}",
            remedy="Choose another name for the task.",
        )


def check_no_log(queue: MergeQueue, files: Mapping[str, Path]) -> None:
    """Raises Refused where a base would be overwritten that deployed models were merged from.

    The same base may be uploaded again, which mends one that was damaged.
    """
    digests = tree_digests({path: sha256_file(file) for path, file in files.items()})
    for name in queue.settings.family_names():
        family = load_family(name, queue.settings.families_dir)
        if family.base_uri != queue.family.base_uri:
            continue
        newest = PromotionLog(queue.store, family.root / "promotions").newest()
        if newest is None:
            continue
        model = newest.model
        manifest = Manifest.read(queue.store, model.location, model.manifest_sha256)
        if manifest.base_digest not in digests:
            raise Refused(
                f"Family {name!r} has deployed models, which were merged from the base at "
                f"{family.base}; this is another one. Nothing was uploaded.",
                "A family has one base for good: write a family file of another name for the new base.",
            )


def _upload(queue: MergeQueue, files: Mapping[str, Path], target: S3Uri, report: Report) -> None:
    for path, file in files.items():
        report(f"Uploading {path} ({file.stat().st_size / 1e6:,.1f} MB)")
        queue.store.upload(file, target / path)
