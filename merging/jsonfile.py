"""JSON that comes from outside, read in bounded memory and time.

Python's own reader takes a document of any size and depth, and of a key that stands there twice the
last. What is read here is small, shallow and has one reading, or it is refused in a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from merging.errors import InvalidInput

LARGEST = 16 << 20  # Bytes of a document; the index of a model of 600 B parameters has 9 MB.
DEEPEST = 64  # Objects and lists in one another; configurations have about five.
_TOO_DEEP = f"objects nested more than {DEEPEST} deep"
POINTER = b"version https://git-lfs.github.com/spec/v1"


def read_json(path: Path, *, largest: int = LARGEST) -> Any:
    """What a JSON file says.

    Args:
        path: The file.
        largest: Most bytes that it may have.

    Raises:
        InvalidInput: It is missing, a git-lfs pointer, or `parse_json` refuses it.
    """
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise ValueError(f"more than {largest / (1 << 20):.0f} MB")
        return parse_json(content)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            where=str(path),
            expected="a JSON file as save_pretrained writes it",
            found=getattr(error, "strerror", None) or str(error),
            remedy="Save it again, or upload it again.",
        ) from error


def parse_json(content: bytes | str) -> Any:
    """A JSON document as Python values.

    Raises:
        ValueError: It is not JSON in UTF-8, is nested too deeply, or an object has a key twice.
    """
    text = content.decode() if isinstance(content, bytes) else content
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check(document)
    return document


def refuse_pointer(path: Path) -> None:
    """Refuses what git-lfs leaves in the place of a file that was not fetched.

    Raises:
        InvalidInput: The file is such a pointer.
    """
    if is_pointer(path):
        raise InvalidInput(
            where=str(path),
            expected="the file itself",
            found="a git-lfs pointer, which only says where the file would be fetched from",
            remedy="Run `git lfs pull` in the folder that it was cloned to.",
        )


def refuse_pointers(directory: Path, suffixes: Collection[str]) -> None:
    """Refuses a folder in which git-lfs left a pointer; tokenizers, say, would only fail to read it.

    Args:
        directory: The folder.
        suffixes: How the files end that are read of it.

    Raises:
        InvalidInput: One of them is such a pointer.
    """
    for path in sorted(directory.iterdir()):
        if path.suffix in suffixes:
            refuse_pointer(path)


def is_pointer(path: Path) -> bool:
    """Whether a file is a git-lfs pointer."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name[:80]!r} twice in one object")
        found[name] = value
    return found


def _check(document: Any) -> None:
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(_TOO_DEEP)
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                value.encode()  # Half of a surrogate pair is no text, and could not be written again.
        level = below
