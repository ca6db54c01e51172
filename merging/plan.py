"""What a merge will hold in memory and on disk, said before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merging.adapters import is_adapter
from merging.checkpoint import Checkpoint
from merging.deltas import backbone_names
from merging.errors import NotEnoughMemory
from merging.examples import ModelKind
from merging.experts import Expert
from merging.grouping import chunks
from merging.settings import MergeSettings
from merging.vectors import DTYPES, TILE_BYTES

LONGEST = 128  # tokens of the longest example, where the caller does not know better


@dataclass(frozen=True)
class Plan:
    """What learning the coefficients will take, in bytes.

    Attributes:
        groups: The tasks merged together, level by level; one level with one group is a flat merge.
        resident: Whether the task vectors stay in memory, or pass through it tile by tile.
        model: fp32 parameters, which every task shares.
        gradient: Their gradients, which wait for the step's last micro-batch.
        tile: Task vectors in memory at a time.
        activations: What one micro-batch keeps for its backward pass; estimated.
        peak: All of these together.
        disk: Files in the work folder: the task vectors of every group, and of none twice.
    """

    groups: tuple[tuple[tuple[str, ...], ...], ...]
    resident: bool
    model: int
    gradient: int
    tile: int
    activations: int
    peak: int
    disk: int

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)


def make_plan(
    base: Path,
    experts: Sequence[Expert],
    kind: ModelKind,
    settings: MergeSettings,
    *,
    groups: tuple[tuple[tuple[str, ...], ...], ...] | None = None,
    tokens: int = LONGEST,
) -> Plan:
    """Predicts memory and disk of a merge from headers and settings alone.

    Args:
        base: The base checkpoint.
        experts: What will be merged.
        kind: The kind of model.
        settings: How; its `memory_budget` is kept, by streaming if it has to be.
        groups: The groups, where they are known; else experts are grouped by arrival.
        tokens: Of the longest example.

    Raises:
        NotEnoughMemory: Not even streaming stays below the budget.
    """
    source = Checkpoint.open(base)
    shapes = {
        name: source.tensors[name].shape
        for name in backbone_names(source, kind)
        if source.tensors[name].dtype.is_floating_point
    }
    sizes = {name: _numel(shape) for name, shape in shapes.items()}
    groups = groups or planned_groups([expert.task for expert in experts], settings.group_size)
    dense = sum(not is_adapter(expert.directory) for expert in experts) or 1
    largest = min(dense, max(len(group) for level in groups for group in level))
    width = DTYPES[settings.storage].itemsize
    heads = sum(t.nbytes for expert in experts for t in expert.head.tensors.values())
    model = 4 * sum(sizes.values()) + heads
    looked = _lookups(shapes, source.config, kind)
    gradient = 4 * sum(size for name, size in sizes.items() if name not in looked)
    vectors = sum(sizes.values()) * width * largest
    widest = max((size for name, size in sizes.items() if name not in looked), default=0)
    stack = widest * (4 + width * largest)
    tile = vectors if settings.resident else min(stack, TILE_BYTES)
    activations = settings.batch_size * _activation_bytes(source.config, tokens)
    peak = model + gradient + tile + activations
    disk = sum(
        sum(sizes.values()) * (4 + width * len(group))
        for level in groups
        for group in level
        if len(group) > 1 or len(level) == 1
    )
    if settings.memory_budget is not None and peak > settings.memory_budget:
        raise NotEnoughMemory(
            f"memory budget: expected at least {peak:,} bytes (parameters {model:,}, gradients "
            f"{gradient:,}, task vectors {tile:,}, activations {activations:,}), found "
            f"{settings.memory_budget:,}. Raise memory_budget, lower batch_size, or turn resident "
            "off."
        )
    return Plan(groups, settings.resident, model, gradient, tile, activations, peak, disk)


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


def _numel(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _lookups(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], kind: ModelKind
) -> set[str]:
    """Embeddings whose gradient is sparse: of a vocabulary, and not tied to an output."""
    if kind != "text-classifier":
        return set()
    vocabulary = config.get("vocab_size")
    return {name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == vocabulary}


def _activation_bytes(config: Mapping[str, Any], longest: int) -> int:
    """Of one example: per token and layer about 8 hidden and 2 intermediate vectors in fp32.

    Counted for a pre- or post-norm transformer layer with fused attention: the inputs of its linear
    layers and norms, queries, keys, values, and the two sides of the activation function.
    """
    hidden = int(config.get("hidden_size") or config.get("d_model") or config.get("n_embd") or 0)
    layers = int(
        config.get("num_hidden_layers") or config.get("num_layers") or config.get("n_layer") or 0
    )
    inner = int(config.get("intermediate_size") or config.get("d_ff") or 4 * hidden)
    if config.get("image_size") and config.get("patch_size"):
        tokens = (int(config["image_size"]) // int(config["patch_size"])) ** 2 + 1
    else:
        positions = config.get("max_position_embeddings") or config.get("n_positions") or longest
        tokens = min(int(positions), longest)
    return 4 * tokens * layers * (8 * hidden + 2 * inner)
