"""How an expert's folder is laid out, in S3 and on disk.

It holds a Hugging Face checkpoint, in safetensors only, and an examples table; either may lie deeper
in the folder. The table may refer to image files beside it. Upload and pull take the same files by the
rule that stands here: everything but what is never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from infra.names import check_relative_path, is_hidden
from infra.storage.cache import sha256_tree
from merging.errors import InvalidInput
from merging.experts.table_names import TABLES

_CONFIGS = ("config.json", "adapter_config.json")
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".distcp"}
_OTHER_WEIGHTS = {".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".gguf", ".tflite", ".pb"}
_CODE = {".py", ".ipynb", ".sh", ".so", ".dll", ".exe"}
_LEFT_OUT = _PICKLES | _OTHER_WEIGHTS | _CODE
_NAMED = 10  # Files and folders that a sentence names.
_LOGS = ("events.out.tfevents.",)
_TRAINER_FOLDER = re.compile(r"checkpoint-[0-9]+")  # Where transformers' Trainer saves on its way.
# All that was read of a folder in earlier versions, whose digests are on record.
_READ_BEFORE = {
    *(".safetensors", ".json", ".txt", ".model", ".parquet", ".jsonl"),
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp"),
}


@dataclass(frozen=True)
class ExpertLayout:
    """The two things in an expert's folder, as paths relative to it."""

    checkpoint: PurePosixPath
    examples: PurePosixPath


def is_wanted(path: str) -> bool:
    """True for files that may be read; pickles, code, logs and hidden files stay where they are."""
    file = PurePosixPath(path)
    return (
        not is_hidden(path)
        and file.suffix.lower() not in _LEFT_OUT
        and not file.name.startswith(_LOGS)
    )


def wanted_files(paths: Iterable[str], where: str) -> list[str]:
    """The files that upload and pull take, sorted.

    Where the folder holds a model, what Trainer keeps in `checkpoint-NNN` beside it is left aside.

    Raises:
        InvalidInput: The name of one of them cannot be stored or would leave the folder.
    """
    files = sorted(path for path in paths if is_wanted(path))
    if any(not _of_trainer(folder) for folder in _models(map(PurePosixPath, files))):
        files = [path for path in files if not _of_trainer(PurePosixPath(path).parent)]
    return [check_relative_path(path, where) for path in files]


def paths_in(directory: Path) -> list[str]:
    """Every file of a local folder by its relative path, sorted; raises InvalidInput if it is none."""
    if not directory.is_dir():
        raise InvalidInput(
            where=str(directory),
            expected="a folder with a checkpoint",
            found="no such folder",
            remedy="Give the folder that `save_pretrained` wrote.",
        )
    files = (f.relative_to(directory).as_posix() for f in directory.rglob("*") if f.is_file())
    return sorted(files)


def files_in(directory: Path) -> list[str]:
    """The files that upload takes of a local folder, sorted; raises as :func:`wanted_files` does."""
    return wanted_files(paths_in(directory), str(directory))


def left_aside(paths: Iterable[str], where: str) -> tuple[str, ...]:
    """A sentence about what upload and pull leave of a folder, if that is anything.

    Whole folders are named as such; what is hidden is not.
    """
    every = sorted(path for path in paths if not is_hidden(path))
    taken = set(wanted_files(every, where))
    kept = {folder for path in taken for folder in PurePosixPath(path).parents}
    names: dict[str, None] = {}
    for path in every:
        if path not in taken:
            above = reversed(PurePosixPath(path).parents)
            names[next((f"{folder}/" for folder in above if folder not in kept), path)] = None
    if not names:
        return ()
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = ", ".join(f"{name:.100}" for name in list(names)[:_NAMED])
    return (f"Left aside, since a merge does not read it: {shown}{more}.",)


def tree_digests(files: Mapping[str, str]) -> tuple[str, str]:
    """The digest of a folder's files, and the one it had when fewer files of a folder were read.

    Args:
        files: SHA-256 by relative path.
    """
    before = {p: d for p, d in files.items() if PurePosixPath(p).suffix.lower() in _READ_BEFORE}
    return sha256_tree(files), sha256_tree(before)


def find_layout(paths: Iterable[str], where: str) -> ExpertLayout:
    """Finds the checkpoint and the examples among relative paths, before anything is downloaded.

    Raises:
        InvalidInput: One of them is missing or there are several, or the weights are a pickle.
    """
    names = list(paths)
    checkpoint = find_checkpoint(names, where)
    files = [PurePosixPath(path) for path in wanted_files(names, where)]
    tables = {file for file in files if file.name in TABLES}
    if not tables:
        raise InvalidInput(
            where=where,
            expected=f"an examples table named {', '.join(TABLES[:-1])} or {TABLES[-1]}",
            found="none",
            remedy="Put one into the folder, or give it to `supermerge register` with --examples.",
        )
    return ExpertLayout(checkpoint, _only(tables, where, "examples table"))


def find_checkpoint(paths: Iterable[str], where: str) -> PurePosixPath:
    """Finds the checkpoint alone; raises as :func:`find_layout` does."""
    names = list(paths)
    files = [PurePosixPath(path) for path in wanted_files(names, where)]
    models = _models(files)
    pickles = [path for path in names if _is_pickle(path)]
    if not any(file.suffix == ".safetensors" for file in files) and pickles:
        raise InvalidInput(
            where=where,
            expected="weights in safetensors",
            found=f"only pickles ({', '.join(pickles[:3])})",
            remedy="Save the model with `save_pretrained`, which writes safetensors.",
        )
    return _only(models, where, "folder with safetensors and config.json or adapter_config.json")


def find_layout_on_disk(directory: Path, examples: Path | None = None) -> tuple[Path, Path]:
    """The checkpoint's folder and the examples table of a local folder.

    Args:
        directory: The expert's folder.
        examples: The table, where it is given apart.

    Raises:
        InvalidInput: As :func:`find_layout` does.
    """
    files = paths_in(directory)
    if examples is not None:
        return directory / find_checkpoint(files, str(directory)), examples
    layout = find_layout(files, str(directory))
    return directory / layout.checkpoint, directory / layout.examples


def _models(files: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """Folders that hold weights with their configuration."""
    there = list(files)
    weights = {file.parent for file in there if file.suffix == ".safetensors"}
    return weights & {file.parent for file in there if file.name in _CONFIGS}


def _of_trainer(folder: PurePosixPath) -> bool:
    return any(_TRAINER_FOLDER.fullmatch(part) for part in folder.parts)


def _is_pickle(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in _PICKLES and not is_hidden(path)


def _only(paths: set[PurePosixPath], where: str, what: str) -> PurePosixPath:
    if len(paths) == 1:
        return paths.pop()
    raise InvalidInput(
        where=where,
        expected=f"exactly one {what}",
        found=", ".join(sorted(map(str, paths))) or "none",
        remedy="Register the folder of one expert; its examples table may lie elsewhere and be given "
        "to `supermerge register` with --examples.",
    )
