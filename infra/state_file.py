"""The one file in which the embedded stack keeps what it decided: ports, secrets, settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from merging.errors import InvalidInput

PORTS = 16
"""How many ports, one after the other, the embedded stack has."""


def state_file(state_dir: Path) -> Path:
    """The one file, readable by its owner only, that the embedded stack keeps its facts in."""
    return state_dir / "stack.json"


def read_state_file(state_dir: Path) -> dict[str, Any]:
    """What the embedded stack wrote down; {} where it was never started."""
    path = state_file(state_dir)
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(state, dict):
            raise ValueError(f"a {type(state).__name__}")
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise InvalidInput(
            where=str(path),
            expected="the JSON that `supermerge up` writes",
            found=f"something else ({error})",
            remedy="Run `supermerge down`, move the file away and run `supermerge up` again.",
        ) from None
    return state


def embedded_ports(state_dir: Path) -> range:
    """The ports of the embedded stack with this state; none where it was never started."""
    try:
        first = int(read_state_file(state_dir)["stack"]["first_port"])
    except (KeyError, TypeError, ValueError, OSError, InvalidInput):
        return range(0)
    return range(first, first + PORTS)
