"""What a merge will hold in memory and on disk, said before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Plan:
    """How the coefficients are learned.

    Attributes:
        groups: The tasks merged together, level by level; one level with one group is a flat merge.
        model_bytes: fp32 bytes of the merged tensors.
        vector_bytes: Bytes of the task vector file of the largest group.
        peak_bytes: Most memory that model, gradient and the largest stack take together.
    """

    groups: tuple[tuple[tuple[str, ...], ...], ...]
    model_bytes: int
    vector_bytes: int
    peak_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)
