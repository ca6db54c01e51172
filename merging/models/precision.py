"""What a merged model is written in, and how much of the merged change that took."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merging.errors import InvalidInput
from merging.jsonfile import read_json
from merging.safefile import Spec
from merging.settings import WriteDtype


@dataclass(frozen=True)
class Precision:
    """Lies beside the merged model, so that it can be built again as it was.

    Attributes:
        write_dtype: The setting that it was written with.
        dtype: What most of its numbers are in.
        lost: ‖written − exact‖ ÷ ‖Σ c τ‖ over the tensors that are merged.
    """

    write_dtype: WriteDtype = "base"
    dtype: str = "float32"
    lost: float = 0.0

    @classmethod
    def of(cls, write_dtype: WriteDtype, specs: Iterable[Spec], lost: float) -> Precision:
        """That of tensors written as `specs`.

        Four digits are kept of what is lost, since the last ones depend on how sums are shared out.
        """
        numbers: dict[str, int] = {}
        for spec in specs:
            dtype = str(spec.dtype).removeprefix("torch.")
            numbers[dtype] = numbers.get(dtype, 0) + spec.nbytes // spec.dtype.itemsize
        most = max(numbers, key=lambda dtype: (numbers[dtype], dtype), default="float32")
        return cls(write_dtype, most, float(f"{lost:.4g}"))

    @property
    def sentence(self) -> str:
        """For people: what the numbers are in, and what is lost."""
        if not self.lost:
            return f"written in {self.dtype}, nothing of the merged change is lost in rounding"
        return f"written in {self.dtype}, {self.lost:.2%} of the merged change is lost in rounding"

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> Precision:
        """Reads what `save` wrote; models of before there was a choice are written as their base.

        Raises:
            InvalidInput: It is something else.
        """
        if not path.exists():
            return cls()
        try:
            values: dict[str, Any] = read_json(path)
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                where=str(path),
                expected="what a merged model was written in",
                found=str(error),
                remedy="Materialise the model again, or pull it again.",
            ) from error
