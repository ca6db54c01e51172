"""One difference between a base and an expert, as every check here hands it on."""

from __future__ import annotations

from typing import NamedTuple


class Mismatch(NamedTuple):
    """One difference between a base and an expert.

    Attributes:
        tensor: The tensor or setting.
        expected, found: The base's side and the expert's.
        remedy: What to do, as a sentence; where it is empty, only another fine-tuning helps.
    """

    tensor: str
    expected: str
    found: str
    remedy: str = ""
