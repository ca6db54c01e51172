"""Bringing an expert or a base into the object store, checked before anything is uploaded."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from infra.names import check_task
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from infra.storage.cache import sha256_file, sha256_tree
from infra.storage.layout import is_wanted
from infra.storage.store import S3Uri
from merging.preflight.base import check_base
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
) -> ExpertVersion:
    """Checks an expert's folder, uploads it and creates its version.

    The same content registered twice is the same version.

    Args:
        queue: The family's queue.
        task_name: The ML task.
        directory: The folder with the checkpoint and, unless it is given apart, the examples table.
        examples: The examples table, where it is not in the folder.
        report: Is told what is being done.

    Raises:
        InvalidInput, IncompatibleExpert: It cannot be merged; nothing was uploaded.
    """
    check_task(task_name)
    if examples is not None:
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch) / "expert"
            shutil.copytree(directory, whole)
            shutil.copyfile(examples, whole / f"examples{examples.suffix}")
            return register_expert(queue, task_name, whole, report=report)
    report(f"Fetching the base {queue.family.base}")
    base = fetch_base(queue)
    report("Checking weights, tokenizer and examples")
    for remark in open_checked(queue.family, base, task_name, directory, str(directory)).remarks:
        report(f"Worth knowing: {remark}")
    digest = sha256_tree({p: sha256_file(directory / p) for p in _wanted(directory)})
    target = queue.family.root / "experts" / task_name / digest
    _upload(queue, directory, target, report)
    report("Registering it in MLflow")
    return queue.registry.experts.register(queue.name, task_name, target, digest)


def upload_base(queue: MergeQueue, directory: Path, report: Report = lambda _: None) -> None:
    """Uploads the base checkpoint of a family.

    Raises:
        InvalidInput: It is no whole checkpoint; nothing was uploaded.
    """
    check_base(_wanted(directory), queue.family.kind, str(directory))
    _upload(queue, directory, queue.family.base_uri, report)


def _upload(queue: MergeQueue, directory: Path, target: S3Uri, report: Report) -> None:
    for path in _wanted(directory):
        megabytes = (directory / path).stat().st_size / 1e6
        report(f"Uploading {path} ({megabytes:,.1f} MB)")
        queue.store.upload(directory / path, target / path)


def _wanted(directory: Path) -> list[str]:
    files = (p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())
    return sorted(path for path in files if is_wanted(path))
