"""How an expert's folder is laid out, in S3 and on disk.

It holds a Hugging Face checkpoint, in safetensors only, and an examples table; either may lie deeper
in the folder. The table may refer to image files beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from merging.errors import InvalidInput
from merging.models.folder import COMPANIONS

_CHECKPOINT = ("config.json", "adapter_config.json")
_TABLES = ("examples.parquet", "examples.jsonl")
_WANTED = {".safetensors", ".parquet", ".jsonl", *COMPANIONS}
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


@dataclass(frozen=True)
class ExpertLayout:
    """The two things in an expert's folder, as paths relative to it."""

    checkpoint: PurePosixPath
    examples: PurePosixPath


def is_wanted(path: str) -> bool:
    """True for files that the queue reads; anything else stays where it is."""
    return PurePosixPath(path).suffix.lower() in _WANTED | _IMAGES


def find_layout(paths: Iterable[str], where: str) -> ExpertLayout:
    """Finds the checkpoint and the examples among relative paths, before anything is downloaded.

    Raises:
        InvalidInput: One of them is missing or there are several, or the weights are a pickle.
    """
    files = [PurePosixPath(path) for path in paths]
    weights = {file.parent for file in files if file.suffix == ".safetensors"}
    pickles = [file for file in files if file.suffix.lower() in _PICKLES]
    if not weights and pickles:
        raise InvalidInput(
            where=where,
            expected="weights in safetensors",
            found=f"only pickles ({', '.join(map(str, pickles[:3]))})",
            remedy="Save the model with `save_pretrained`, which writes safetensors.",
        )
    configured = {file.parent for file in files if file.name in _CHECKPOINT}
    checkpoint = _only(weights & configured, where, "folder with safetensors and config.json")
    table = _only({f for f in files if f.name in _TABLES}, where, "examples table")
    return ExpertLayout(checkpoint, table)


def find_layout_on_disk(directory: Path) -> ExpertLayout:
    """Finds the checkpoint and the examples in a local folder, as :func:`find_layout` does."""
    if not directory.is_dir():
        raise InvalidInput(
            where=str(directory),
            expected="a folder with a checkpoint and an examples table",
            found="no such folder",
            remedy="Give the folder that `save_pretrained` wrote.",
        )
    files = (f.relative_to(directory).as_posix() for f in directory.rglob("*") if f.is_file())
    return find_layout(files, str(directory))


def _only(paths: set[PurePosixPath], where: str, what: str) -> PurePosixPath:
    if len(paths) == 1:
        return paths.pop()
    names = ", ".join(sorted(map(str, paths))) or "none"
    raise InvalidInput(
        where=where,
        expected=f"exactly one {what}" + (f" ({' or '.join(_TABLES)})" if "table" in what else ""),
        found=names,
        remedy="Register a folder that holds one expert: its checkpoint and its examples.",
    )
