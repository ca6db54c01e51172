"""The merged model as files, a deterministic function of base, experts and coefficients."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from merging.errors import InvalidInput, NotReproduced
from merging.experts.checkpoint import Checkpoint, digest_file
from merging.experts.heads import Head
from merging.jsonfile import read_json
from merging.models.coefficients import Coefficients
from merging.models.folder import COMPANIONS, MergedFolder
from merging.models.precision import Precision
from merging.safefile import Spec, write_tensors
from merging.settings import WriteDtype
from merging.vectors.deltas import Source, summed_blocks
from merging.vectors.expert_set import ExpertSet
from merging.vectors.preprocess import processed_sources
from merging.vectors.rounding import Rounding, rounded, written_specs

SHARD_BYTES = 5_000_000_000  # Most bytes of a weight file, unless one tensor is larger.
# Gives a merged tensor by its canonical name, whole or in blocks of rows.
Merged = Callable[[str], Tensor | Iterable[Tensor]]


def materialise(
    experts: ExpertSet,
    coefficients: Coefficients,
    heads: Mapping[str, Head],
    out: Path,
    write_dtype: WriteDtype = "base",
) -> MergedFolder:
    """Writes `model/`, `heads/<task>/`, `coefficients.safetensors` and `precision.json` into `out`.

    They are written beside and renamed, so `out` is whole or not there. Computed in fp32 on the
    CPU, one expert after the other in the order of the columns: the same bytes everywhere.

    Args:
        experts: What is merged.
        coefficients: How much of each goes where.
        heads: By task.
        out: The folder to write.
        write_dtype: What the parameters are written in, see `MergeSettings`.

    Raises:
        InvalidInput: The coefficients belong to other experts or tensors.
        NonFinite: A merged value is too large for float16.
    """
    _check(experts, coefficients)
    chosen = {task: heads[task] for task in coefficients.tasks}
    with _beside(Path(out)) as folder:
        precision = _write_merged(experts, coefficients, folder.model, write_dtype)
        _save_heads(chosen, folder)
        coefficients.save(folder.coefficients)
        precision.save(folder.precision)
    return MergedFolder(out)


def write_model(experts: ExpertSet, merged: Merged, heads: Mapping[str, Head], out: Path) -> None:
    """Writes a model directory whose backbone tensors are `merged(canonical name)`, as in the base."""
    with _beside(Path(out)) as folder:
        specs = written_specs(experts.base, experts.kind, "base")
        _write_backbone(experts.base, specs, merged, folder.model)
        _save_heads(heads, folder)


def verify(experts: ExpertSet, merged: MergedFolder) -> None:
    """Builds a merged model's backbone again from its coefficients and compares every file.

    Raises:
        NotReproduced: A file is missing or its bytes differ.
    """
    coefficients = Coefficients.load(merged.coefficients)
    write_dtype = Precision.load(merged.precision).write_dtype
    with tempfile.TemporaryDirectory(dir=merged.path.parent, prefix=".verify.") as folder:
        again = MergedFolder(Path(folder)).model
        _check(experts, coefficients)
        _write_merged(experts, coefficients, again, write_dtype)
        for path in sorted(again.iterdir()):
            built = merged.model / path.name
            if not built.is_file() or digest_file(built) != digest_file(path):
                raise NotReproduced(
                    where=str(built),
                    expected="the bytes that base, experts and coefficients give",
                    found="others",
                    remedy="Materialise the model again from its coefficients.",
                )


def merged_tensor(
    base: Checkpoint, sources: Sequence[Source], coefficients: Tensor, name: str
) -> Tensor:
    """One merged tensor in the base's dtype and shape; arguments as of `merged_blocks`."""
    blocks = list(merged_blocks(base, sources, coefficients, name))
    return torch.cat(blocks).view(base.tensors[name].shape)


def merged_blocks(
    base: Checkpoint,
    sources: Sequence[Source],
    coefficients: Tensor,
    name: str,
    dtype: torch.dtype | None = None,
    rounding: Rounding | None = None,
) -> Iterator[Tensor]:
    """One merged tensor, block by block of its rows.

    Args:
        base: The base checkpoint.
        sources: The experts' task vectors in column order.
        coefficients: fp32 [experts] or [experts, rows].
        name: Canonical name.
        dtype: What it is written in; None for the base's.
        rounding: Where what is lost in it is counted.

    Raises:
        NonFinite: A value is too large for `dtype`.
    """
    original = base.read(name)
    dtype = dtype or original.dtype
    counts = rounding is not None and dtype.itemsize < torch.float32.itemsize
    first = 0
    for block in summed_blocks(original, base, sources, coefficients, name):
        written = rounded(block, dtype, name)
        if rounding is not None and counts:
            before = original.view(-1, block.shape[1])[first : first + len(block)]
            rounding.add(before.float(), block, written)
        first += len(block)
        yield written


def _write_merged(
    experts: ExpertSet, coefficients: Coefficients, out: Path, write_dtype: WriteDtype
) -> Precision:
    base, rounding = experts.base, Rounding()
    buffers = experts.buffers if write_dtype != "base" else ()
    specs = written_specs(base, experts.kind, write_dtype, buffers)
    sources = processed_sources(experts, coefficients.preprocess)

    def merged(name: str) -> Tensor | Iterable[Tensor]:
        dtype = specs[name].dtype
        if name not in coefficients.values:
            return rounded(base.read(name), dtype, name)
        return merged_blocks(base, sources, coefficients.values[name], name, dtype, rounding)

    _write_backbone(base, specs, merged, out)
    if write_dtype != "base":
        _state_dtype(out / "config.json", write_dtype)
    return Precision.of(write_dtype, specs.values(), rounding.share)


def _write_backbone(base: Checkpoint, specs: Mapping[str, Spec], merged: Merged, out: Path) -> None:
    names = {base.tensors[name].key: name for name in specs}
    out.mkdir(parents=True)
    for path in sorted(base.directory.iterdir()):
        if path.suffix in COMPANIONS and path.is_file() and not path.name.endswith(".index.json"):
            shutil.copyfile(path, out / path.name)
    shards = list(_shards({key: specs[name] for key, name in names.items()}))
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        file = f"model{part}.safetensors"
        write_tensors(out / file, shard, lambda key: merged(names[key]))
        index.update(dict.fromkeys(shard, file))
    if len(shards) > 1:
        size = sum(spec.nbytes for spec in specs.values())
        content = {"metadata": {"total_size": size}, "weight_map": index}
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        (out / "model.safetensors.index.json").write_text(text)


def _state_dtype(path: Path, dtype: str) -> None:
    """Lets a configuration, and each one inside it, say what the weights are in."""
    config = read_json(path)
    inner = [value for value in config.values() if isinstance(value, dict) and "dtype" in value]
    for part in (config, *inner):
        part.pop("torch_dtype", None)  # The name that older versions of transformers wrote.
        part["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@contextmanager
def _beside(out: Path) -> Iterator[MergedFolder]:
    """A new folder that takes the place of `out` once it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield MergedFolder(beside)
        beside.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _save_heads(heads: Mapping[str, Head], folder: MergedFolder) -> None:
    for task, head in heads.items():
        head.save(folder.head(task))


def _shards(specs: Mapping[str, Spec]) -> Iterator[dict[str, Spec]]:
    shard: dict[str, Spec] = {}
    size = 0
    for key, spec in specs.items():
        if shard and size + spec.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[key] = spec
        size += spec.nbytes
    yield shard


def _check(experts: ExpertSet, coefficients: Coefficients) -> None:
    unknown = sorted(set(coefficients.values) - set(experts.base.tensors))
    if experts.tasks != coefficients.tasks or unknown:
        raise InvalidInput(
            where="coefficients of a merged model",
            expected=f"columns {list(experts.tasks)} for tensors of {experts.base.directory}",
            found=f"columns {list(coefficients.tasks)}, unknown tensors {unknown[:5]}",
            remedy="Give the experts that the coefficients were learned for, in their order.",
        )
