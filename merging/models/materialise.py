"""The merged model as files, a deterministic function of base, experts and coefficients."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from merging.errors import InvalidInput, NotReproduced
from merging.experts.checkpoint import Checkpoint, digest_file
from merging.experts.heads import Head
from merging.models.coefficients import Coefficients
from merging.models.folder import COMPANIONS, MergedFolder
from merging.safefile import Spec, write_tensors
from merging.vectors.deltas import Source, backbone_names, summed_blocks
from merging.vectors.expert_set import ExpertSet
from merging.vectors.preprocess import processed_sources

SHARD_BYTES = 5_000_000_000  # Most bytes of a weight file, unless one tensor is larger.
# Gives a merged tensor by its canonical name, whole or in blocks of rows.
Merged = Callable[[str], Tensor | Iterable[Tensor]]


def materialise(
    experts: ExpertSet, coefficients: Coefficients, heads: Mapping[str, Head], out: Path
) -> MergedFolder:
    """Writes `model/`, `heads/<task>/` and `coefficients.safetensors` into `out`.

    They are written beside and renamed, so `out` is whole or not there. Computed in fp32 on the
    CPU, one expert after the other in the order of the columns: the same bytes everywhere.

    Raises:
        InvalidInput: The coefficients belong to other experts or tensors.
    """
    _check(experts, coefficients)
    chosen = {task: heads[task] for task in coefficients.tasks}
    write_model(experts, _merger(experts, coefficients), chosen, out, coefficients)
    return MergedFolder(out)


def write_model(
    experts: ExpertSet,
    merged: Merged,
    heads: Mapping[str, Head],
    out: Path,
    coefficients: Coefficients | None = None,
) -> None:
    """Writes a model directory whose backbone tensors are `merged(canonical name)`."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        folder = MergedFolder(beside)
        _write_backbone(experts, merged, folder.model)
        for task, head in heads.items():
            head.save(folder.head(task))
        if coefficients is not None:
            coefficients.save(folder.coefficients)
        beside.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def verify(experts: ExpertSet, merged: MergedFolder) -> None:
    """Builds a merged model's backbone again from its coefficients and compares every file.

    Raises:
        NotReproduced: A file is missing or its bytes differ.
    """
    coefficients = Coefficients.load(merged.coefficients)
    with tempfile.TemporaryDirectory(dir=merged.path.parent, prefix=".verify.") as folder:
        again = MergedFolder(Path(folder)).model
        _check(experts, coefficients)
        _write_backbone(experts, _merger(experts, coefficients), again)
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
    base: Checkpoint, sources: Sequence[Source], coefficients: Tensor, name: str
) -> Iterator[Tensor]:
    """One merged tensor in the base's dtype, block by block of its rows.

    Args:
        base: The base checkpoint.
        sources: The experts' task vectors in column order.
        coefficients: fp32 [experts] or [experts, rows].
        name: Canonical name.
    """
    original = base.read(name)
    for block in summed_blocks(original, base, sources, coefficients, name):
        yield block.to(original.dtype)


def _merger(experts: ExpertSet, coefficients: Coefficients) -> Merged:
    base = experts.base
    sources = processed_sources(experts, coefficients.preprocess)

    def merged(name: str) -> Tensor | Iterable[Tensor]:
        if name not in coefficients.values:
            return base.read(name)
        return merged_blocks(base, sources, coefficients.values[name], name)

    return merged


def _write_backbone(experts: ExpertSet, merged: Merged, out: Path) -> None:
    base = experts.base
    names = {base.tensors[name].key: name for name in backbone_names(base, experts.kind)}
    specs = {
        key: Spec(base.tensors[name].shape, base.tensors[name].dtype) for key, name in names.items()
    }
    out.mkdir(parents=True)
    for path in sorted(base.directory.iterdir()):
        if path.suffix in COMPANIONS and path.is_file() and not path.name.endswith(".index.json"):
            shutil.copyfile(path, out / path.name)
    shards = list(_shards(specs))
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
