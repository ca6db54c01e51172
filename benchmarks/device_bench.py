"""Random models of real sizes, experts that cost no time to make, and steps on any device."""

from __future__ import annotations

import functools
import gc
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from benchmarks.synthetic import KIND, Bench
from merging.experts.checkpoint import Checkpoint
from merging.experts.forms import LowRank, Scaling
from merging.experts.heads import Head
from merging.learning.merge import Merge
from merging.learning.objectives import objective_loss
from merging.learning.resident import open_merge
from merging.learning.taskmodels import TaskModels
from merging.learning.weights import TensorWeights
from merging.settings import Storage
from merging.vectors.mapped import TaskVectors, build_vectors

RANK = 16  # of the LoRA experts
POOL = 1 << 26  # random numbers that all task vectors are cut from
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "22 M": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12},
    "109 M": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "1 B": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 32000,
    },
    "tiny llama": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 500,
    },
}


def random_base(size: str, work: Path, device: torch.device) -> Path:
    """A random BERT in fp32, or a Llama in bf16, saved under `work`; drawn on the device."""
    directory = work / size.replace(" ", "-").lower()
    if directory.exists():
        return directory
    values = SIZES[size]
    torch.manual_seed(0)
    with torch.device(device):
        if "num_key_value_heads" in values:
            model: Any = LlamaModel(LlamaConfig(**values))
            model = model.to(torch.bfloat16)
        else:
            inner = {"intermediate_size": 4 * values["hidden_size"]}
            model = BertModel(BertConfig(**values, **inner))
    model.cpu().save_pretrained(directory)
    return directory


@functools.cache
def _pool() -> Tensor:
    return torch.randn(POOL, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Cut:
    """A synthetic expert: views of one pool of noise, so that even 14 GB of them take no time."""

    base: Checkpoint
    number: int
    form: str

    def delta(self, name: str) -> Tensor | LowRank | Scaling:
        """The task vector of a tensor, about 5 % of a random model's weights."""
        shape = self.base.tensors[name].shape
        if self.form == "lora":
            up, down = self._numbers(name, (shape[0], RANK)), self._numbers(name, (RANK, shape[1]))
            return LowRank(up * 0.001, down * 0.3)
        if self.form == "ia3":
            return Scaling(self._numbers(name, (shape[0],)) * 0.1, 0)
        return self._numbers(name, shape) * 0.001

    def _numbers(self, name: str, shape: tuple[int, ...]) -> Tensor:
        count = torch.Size(shape).numel()
        start = zlib.crc32(f"{self.number}/{name}".encode()) % (POOL - count)
        return _pool()[start : start + count].view(shape)


class DeviceBench(Bench):
    """A base with synthetic experts of one form, on a device.

    Args:
        base: The base's directory.
        work: Scratch folder.
        device: Where it computes.
        form: "dense", "lora" or "ia3"; adapters change the matrices of linear layers only.
        dtype: Of parameters and gradients.
        autocast: Whether products are in bf16, as a learning run has them on an accelerator.
    """

    def __init__(
        self,
        base: Path,
        work: Path,
        device: torch.device,
        form: str = "dense",
        dtype: torch.dtype = torch.float32,
        autocast: bool = False,
    ) -> None:
        super().__init__(base, work)
        self.device, self.form, self.dtype, self.autocast = device, form, dtype, autocast
        if form != "dense":
            shapes = {n: self.base.tensors[n].shape for n in self.names}
            self.names = [n for n, s in shapes.items() if len(s) == 2 and "embed" not in n]
        self.ids = [ids.to(device) for ids in self.ids]
        self.targets = self.targets.to(device)

    def head(self, number: int) -> Head:
        """A task's head, the same whatever was drawn before."""
        torch.manual_seed(number)
        head = super().head(number)
        if "num_key_value_heads" not in self.base.config:
            return head
        tensors = {"score.weight": head.tensors["classifier.weight"]}
        return Head(head.task, {**head.config, "pad_token_id": 0}, tensors)

    def models(self, tasks: int) -> TaskModels:
        """Task models on the device."""
        heads = [self.head(i) for i in range(tasks)]
        return TaskModels(self.base, heads, KIND, self.names, self.device, dtype=self.dtype)

    def lookups(self) -> set[str]:
        """Embeddings of a BERT, which dense experts change."""
        return {n for n in self.names if n.startswith("embeddings.") and n.endswith("s.weight")}

    def vectors(self, experts: int, storage: Storage = "fp32") -> TaskVectors:
        """The experts' task vectors, written where they are missing."""
        path = self.work / f"{self.directory.name}-{self.form}-{experts}-{storage}.safetensors"
        sources = [Cut(self.base, i, self.form) for i in range(experts)]
        build_vectors(path, self.base, sources, self.names, storage, self.lookups())
        return TaskVectors(path)

    def merge(
        self,
        models: TaskModels,
        experts: int,
        storage: Storage = "fp32",
        *,
        rows: bool = False,
        streamed: bool = False,
    ) -> Merge:
        """Task vectors are resident on an accelerator, or `streamed` to it."""
        vectors = self.vectors(experts, storage)
        start = torch.full((experts,), 0.1, dtype=self._learned_dtype()).to(self.device)
        weights = {
            n: TensorWeights(
                start,
                tanh=False,
                learning_rate=0.01,
                rows=self.base.tensors[n].shape[0] if rows and n in models.row_names else 0,
                row_learning_rate=0.01,
                row_decay=0.02,
            )
            for n in self.names
        }
        for weight in weights.values():
            weight.rows_learn = weight.own is not None
        return open_merge(models, vectors, weights, self.device, 0 if streamed else vectors.nbytes)

    def loss(self, models: TaskModels, task: int) -> Tensor:
        """Cross-entropy of one micro-batch."""
        ids = self.ids[task]
        model = models.models[f"t{task % len(models.models)}"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return objective_loss("labels", logits, self.targets, None)

    def _learned_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, run: Callable[[], Any]) -> float:
    """What a call takes until the device has done it."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def in_turn(
    device: torch.device, first: Callable[[], Any], second: Callable[[], Any], pairs: int
) -> tuple[float, float, float]:
    """Medians over pairs run in turn: first ÷ second, seconds of the first, of the second."""
    for _ in range(2):
        seconds(device, second), seconds(device, first)
    times = [(seconds(device, second), seconds(device, first)) for _ in range(pairs)]
    return (
        statistics.median(b / a for a, b in times),
        statistics.median(b for _, b in times),
        statistics.median(a for a, _ in times),
    )


@contextmanager
def emptied(device: torch.device) -> Iterator[None]:
    """Lets go of what one measurement held before the next."""
    try:
        yield
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
