"""Validation of every name that comes from outside before it becomes a path, a key or a query."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from pydantic import StringConstraints

from merging.errors import InvalidInput

NAME_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"
_NAME = re.compile(NAME_PATTERN)
# Bytes of a file's name, which is the most that file systems take, and of a path, for which the keys of
# an object store leave room.
_LONGEST_NAME, _LONGEST_PATH = 255, 800
# Control characters, line and paragraph separators, and halves of character pairs.
_UNPRINTABLE = {"Cc", "Zl", "Zp", "Cs"}
# What systems put into folders beside what people do.
_SYSTEM = {"__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini"}

Name = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]


def check_family(name: str) -> str:
    """Returns the name of a family unchanged, or raises InvalidInput."""
    return _check_name("family", name)


def check_task(name: str) -> str:
    """Returns the name of an ML task unchanged, or raises InvalidInput."""
    return _check_name("task", name)


def check_relative_path(path: str, where: str) -> str:
    """Returns a relative POSIX path unchanged, or raises InvalidInput if it could leave its folder."""
    if not all(map(_is_plain, path.split("/"))) or len(path.encode()) > _LONGEST_PATH:
        raise InvalidInput(
            where=where,
            expected="a relative path of plain file names",
            found=repr(path[:200]),
            remedy="Rename the file: no leading dot, no backslash, no control character, at most "
            f"{_LONGEST_NAME} bytes a name and {_LONGEST_PATH} a path.",
        )
    return path


def is_hidden(path: str) -> bool:
    """Whether a path lies in what people do not see in their folder, and so did not mean."""
    segments = path.split("/")
    return any((s.startswith(".") and s not in (".", "..")) or s in _SYSTEM for s in segments)


def _is_plain(segment: str) -> bool:
    return (
        segment[:1] not in ("", ".")
        and "\\" not in segment
        and not any(unicodedata.category(character) in _UNPRINTABLE for character in segment)
        and len(segment.encode()) <= _LONGEST_NAME
    )


def limit_name(family: str) -> str:
    """The Prefect concurrency limit that lets one run at a time work on a family."""
    return f"supermerge-{check_family(family)}"


def _check_name(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            where=f"name of the {what}",
            expected=f"lower-case letters, digits and hyphens ({NAME_PATTERN})",
            found=repr(name[:200]),
            remedy=f"Choose another name for the {what}.",
        )
    return name
