"""What a merge will hold in memory and on disk, said before anything runs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from merging.errors import NotEnoughMemory
from merging.experts.checkpoint import backbone_names
from merging.kinds import ModelKind
from merging.learning.grouping import chunks
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet
from merging.vectors.mapped import DTYPES, TILE_BYTES
from merging.vectors.rounding import written_specs
from merging.vectors.stacks import ACCELERATOR_TILE

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
LONGEST = 128  # Tokens of the longest example, where the caller does not know better.
KEPT = 0.2  # Share of gradients and activations that the allocator keeps in reserve; measured.
MODULES = 24 << 20  # Bytes that a few tasks' modules and kernels' scratch memory take; measured.


@dataclass(frozen=True)
class Memory:
    """Bytes that there are: of the host, and free on an accelerator where one computes."""

    host: int
    accelerator: int | None = None

    @classmethod
    def of(cls, device: torch.device) -> Memory:
        """What this process may use: physical memory, or its control group's limit."""
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if _CGROUP_LIMIT.exists() and (limit := _CGROUP_LIMIT.read_text().strip()).isdigit():
            host = min(host, int(limit))
        if device.type != "cuda":
            return cls(host)
        free = torch.cuda.mem_get_info(device)[0]  # other processes may have taken the rest
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return cls(host, free + unused)


@dataclass(frozen=True)
class Plan:
    """What learning the coefficients will take, in bytes, and where it will be.

    Attributes:
        groups: The tasks merged together, level by level; one level with one group is a flat merge.
        model: fp32 parameters, which every task shares.
        gradient: Their gradients, which wait for the step's last micro-batch.
        tile: Task vectors where they are computed with, at a time; all of them and the base where an
            accelerator holds them.
        activations: What one micro-batch keeps for its backward pass; estimated.
        overhead: What the allocator and the libraries take on top of these; estimated.
        peak: All of these together, in the memory of whatever computes.
        staging: Host memory on top of it, where an accelerator computes: pinned buffers, and the
            task vectors if they are resident.
        room: What an accelerator has left for task vectors beside everything else; 0 on a host.
        disk: The task vectors of every group, and of none twice, in the work folder; encoded images
            and the experts' own answers come on top.
        written: The weight files of the merged model.
        residence: Where each of them is: "host", "accelerator" or "file".
    """

    groups: tuple[tuple[tuple[str, ...], ...], ...]
    model: int
    gradient: int
    tile: int
    activations: int
    overhead: int
    peak: int
    staging: int
    room: int
    disk: int
    written: int
    residence: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values; what counts bytes says so in its name."""
        values = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return {f"{k}_bytes" if isinstance(v, int) else k: v for k, v in values.items()}


def make_plan(
    experts: ExpertSet,
    settings: MergeSettings,
    memory: Memory,
    *,
    groups: tuple[tuple[tuple[str, ...], ...], ...] | None = None,
    tokens: int = LONGEST,
) -> Plan:
    """Predicts memory and disk of a merge from headers and settings alone.

    Args:
        experts: What will be merged.
        settings: How; its `memory_budget` is kept, by streaming if it has to be.
        memory: What there is.
        groups: The groups, where they are known; else experts are grouped by arrival.
        tokens: Of the longest example.

    Raises:
        NotEnoughMemory: Not even streaming stays below the budget, or below what there is.
    """
    base, kind = experts.base, experts.kind
    shapes = {
        name: base.tensors[name].shape
        for name in backbone_names(base, kind)
        if base.tensors[name].dtype.is_floating_point
    }
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    groups = groups or planned_groups(experts.tasks, settings.group_size)
    dense = sum(not expert.files.is_adapter for expert in experts.experts) or 1
    largest = min(dense, max(len(group) for level in groups for group in level))
    width = DTYPES[settings.storage].itemsize
    heads = sum(t.nbytes for head in experts.heads.values() for t in head.tensors.values())
    model = 4 * sum(sizes.values()) + heads
    lookups = _lookups(shapes, base.config, kind)
    gradient = 4 * sum(size for name, size in sizes.items() if name not in lookups)
    vectors = sum(sizes.values()) * width * largest
    widest = max((size for name, size in sizes.items() if name not in lookups), default=0)
    stack = widest * (4 + width * largest)
    if not settings.resident:
        stack = min(stack, TILE_BYTES)
    activations = settings.batch_size * _activation_bytes(base.config, tokens)
    where, room = "host" if settings.resident else "file", 0
    if memory.accelerator is None:
        tile, staging = vectors if settings.resident else stack, 0
    else:  # one tile is used while the next one arrives
        tile = 2 * stack
        staging = tile + vectors * settings.resident
        every = 4 * sum(sizes.values())  # beside all task vectors an embedding's gradient is whole
        limit = min(memory.accelerator, settings.memory_budget or memory.accelerator)
        converted = 0 if settings.storage == "fp32" else 4 * ACCELERATOR_TILE
        room = max(
            0, limit - model - every - activations - _overhead(every, activations) - converted
        )
        if vectors + every <= room:
            where, gradient, tile, staging = "accelerator", every, vectors + every + converted, 0
    overhead = _overhead(gradient, activations)
    peak = model + gradient + tile + activations + overhead
    computing = "host" if memory.accelerator is None else "accelerator"
    for what, needed, available in (
        ("memory budget", peak, settings.memory_budget),
        (f"memory of the {computing}", peak, memory.accelerator or memory.host),
        ("memory of the host", staging, memory.host),
    ):
        if available is not None and needed > available:
            raise NotEnoughMemory(
                where=what,
                expected=f"at least {needed:,} bytes (parameters {model:,}, gradients "
                f"{gradient:,}, task vectors {tile:,}, activations {activations:,}, overhead "
                f"{overhead:,}; staging {staging:,})",
                found=f"{available:,}",
                remedy="Raise memory_budget, lower batch_size, turn resident off, or take a larger "
                "machine.",
            )
    disk = sum(
        sum(sizes.values()) * (4 + width * len(group))
        for level in groups
        for group in level
        if len(group) > 1 or len(level) == 1
    )
    residence = dict.fromkeys(("parameters", "gradients", "activations", "tile"), computing)
    residence["task vectors"] = where
    written = sum(spec.nbytes for spec in written_specs(base, kind, settings.write_dtype).values())
    return Plan(
        groups=groups,
        model=model,
        gradient=gradient,
        tile=tile,
        activations=activations,
        overhead=overhead,
        peak=peak,
        staging=staging,
        room=room,
        disk=disk,
        written=written,
        residence=residence,
    )


def _overhead(gradient: int, activations: int) -> int:
    return int(KEPT * (gradient + activations)) + MODULES


def planned_groups(
    tasks: Sequence[str], size: int | None
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Groups by arrival, level by level."""
    levels = []
    units: list[tuple[str, ...]] = [(task,) for task in tasks]
    while True:
        merged = [
            tuple(task for index in group for task in units[index])
            for group in chunks(len(units), size)
        ]
        levels.append(tuple(merged))
        if len(merged) == 1:
            return tuple(levels)
        units = merged


def _lookups(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], kind: ModelKind
) -> set[str]:
    """Embeddings whose gradient is sparse: of a vocabulary, and not tied to an output."""
    if not kind.has_head:
        return set()
    vocabulary = config.get("vocab_size")
    return {name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == vocabulary}


def _activation_bytes(config: Mapping[str, Any], longest: int) -> int:
    """What one example keeps: per token and layer some 8 hidden and 2 intermediate vectors in fp32.

    This is counted for a pre- or post-norm transformer layer with fused attention: the inputs of its linear
    layers and norms, queries, keys, values, and the two sides of the activation function.
    """
    hidden = _size(config, "hidden_size", "d_model", "n_embd")
    layers = _size(config, "num_hidden_layers", "num_layers", "n_layer")
    inner = _size(config, "intermediate_size", "d_ff") or 4 * hidden
    if config.get("image_size") and config.get("patch_size"):
        tokens = _area(config["image_size"]) // _area(config["patch_size"]) + 1
    else:
        positions = config.get("max_position_embeddings") or config.get("n_positions") or longest
        tokens = min(int(positions), longest)
    return 4 * tokens * layers * (8 * hidden + 2 * inner)


def _size(config: Mapping[str, Any], *names: str) -> int:
    """The first of these sizes that a configuration has, or 0; where layers differ, the largest's."""
    value = next((config[name] for name in names if config.get(name)), 0)
    return max(value) if isinstance(value, Sequence) else int(value)


def _area(side: int | Sequence[int]) -> int:
    """The area of an image; configurations give a square's side, or a height and a width."""
    return math.prod(side) if isinstance(side, Sequence) else side**2
