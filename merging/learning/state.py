"""The state of a learning run in one small file, so that a killed run goes on where it was."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from merging.safefile import load_tensors, save_tensors

FORMAT = 2  # A run that was saved in another format begins anew.


def numerics(device: torch.device) -> str:
    """What the last digits of learning depend on beside its arguments, for people and for keys.

    Sums are shared out over threads, and each kind of processor and each version of a library adds in
    an order of its own.
    """
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        processor = f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    threads = torch.get_num_threads()
    return (
        f"{processor}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


@dataclass(frozen=True)
class StepRecord:
    """One step of learning.

    Attributes:
        step: From 1; 0 is the state before learning.
        losses: Calibration loss by task in this step, before its update.
        held_out: Loss by task on the held-out examples after this step, where they were looked at.
    """

    step: int
    losses: Mapping[str, float]
    held_out: Mapping[str, float] | None = None


@dataclass(frozen=True)
class RunState:
    """Everything a run needs to go on: tensors and plain values."""

    step: int
    tensors: Mapping[str, Tensor]
    history: tuple[StepRecord, ...]

    def save(self, path: Path) -> None:
        """Replaces the file at once."""
        metadata: dict[str, Any] = {
            "format": FORMAT,
            "step": self.step,
            "history": [asdict(record) for record in self.history],
        }
        save_tensors(path, self.tensors, metadata)

    @classmethod
    def load(cls, path: Path) -> RunState | None:
        """The state in `path`, None where there is none that this version can go on from.

        Raises:
            InvalidInput: The file is damaged.
        """
        if not path.exists():
            return None
        tensors, metadata = load_tensors(path)
        if metadata.get("format") != FORMAT:
            return None
        return cls(
            step=metadata["step"],
            # Copies, since the file is mapped and will be replaced.
            tensors={name: tensor.clone() for name, tensor in tensors.items()},
            history=tuple(StepRecord(**record) for record in metadata["history"]),
        )
