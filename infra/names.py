"""Validation of every name that comes from outside before it becomes a path, a key or a query."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from merging.errors import InvalidInput

NAME_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"
_NAME = re.compile(NAME_PATTERN)
# A segment of a path inside an artifact folder has no separator and does not begin with a dot.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,254}")

Name = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]


def check_family(name: str) -> str:
    """Returns the name of a family unchanged, or raises InvalidInput."""
    return _check_name("family", name)


def check_task(name: str) -> str:
    """Returns the name of an ML task unchanged, or raises InvalidInput."""
    return _check_name("task", name)


def check_relative_path(path: str, where: str) -> str:
    """Returns a relative POSIX path unchanged, or raises InvalidInput if it could leave its folder."""
    if not all(_SEGMENT.fullmatch(segment) for segment in path.split("/")):
        raise InvalidInput(
            where=where,
            expected="a relative path of plain file names",
            found=repr(path[:200]),
            remedy="Rename the file: letters, digits, '.', '_', '-' and no leading dot.",
        )
    return path


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
