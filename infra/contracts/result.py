"""The outcome of checking a table against its contract."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ContractResult:
    """What a table keeps of its contract.

    Attributes:
        name: Which contract.
        passed: No rule that must hold is broken.
        sentences: Each broken rule that must hold: what was expected, found, and what to do.
        warnings: The same for rules that should hold.
        rules: Number of rules checked.
        raw: Great Expectations' own result, for the record.
    """

    name: str
    passed: bool
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    rules: int
    raw: dict[str, Any]

    def to_json(self) -> str:
        """All of it as JSON, with Great Expectations' own result."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)
