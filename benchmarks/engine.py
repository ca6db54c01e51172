"""Time, memory and bytes of the merging engine, in one table.

    OMP_NUM_THREADS=1 python -m benchmarks.engine
    python -m benchmarks.engine --experts 2 8 --large    # fewer sizes, and a 109 M model as well

Experts are synthetic: the text backbone plus noise, since only sizes matter here. Times come in
pairs that run in turn, and the median of their ratios is shown, because the machines this runs on
are noisy. Every row says what was measured, the goal, and whether it was reached.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import json
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.peak import memory
from benchmarks.synthetic import KIND, Bench, Row, autograd_step, ratio
from infra.demo.backbones import build_base
from merging.models.coefficients import Coefficients
from merging.models.materialise import materialise
from merging.settings import Storage
from merging.vectors.expert_set import ExpertSet

LARGE: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE |= {"intermediate_size": 3072}  # BERT base: 109 M parameters


def step_times(bench: Bench, sizes: list[int], pairs: int) -> list[Row]:
    """A step against the bare forwards and backwards in it, by number of experts."""
    rows = []
    for experts in sizes:
        for tasks, goals in ((8, {8: 1.10, 32: 1.30}), (1, {8: 1.30})):
            plain, models = bench.models(tasks), bench.models(tasks)
            merge = bench.merge(models, experts)
            wall, processor = ratio(
                partial(bench.step, models, merge, tasks),
                partial(bench.bare, plain, tasks),
                pairs,
            )
            goal = goals.get(experts)
            rows.append(
                Row(
                    f"step / bare forwards and backwards, K={experts}, {tasks} micro-batches",
                    f"{wall:.2f} (cpu {processor:.2f})",
                    f"<= {goal:.2f}" if goal else "",
                    processor <= goal if goal else None,
                )
            )
            print(rows[-1], flush=True)
    return rows


def other_forms(bench: Bench, pairs: int) -> list[Row]:
    """The same step as plain autograd and as AdaMerging's code does it, against the bare one."""
    rows = []
    plain = bench.models(1)
    vectors = bench.vectors(8)
    for form in ("autograd", "AdaMerging sum"):
        models = bench.models(1)
        wall, processor = ratio(
            partial(autograd_step, bench, models, vectors, form),
            partial(bench.bare, plain, 1),
            pairs,
        )
        rows.append(
            Row(f"{form} step / bare, K=8, 1 micro-batch", f"{wall:.2f} (cpu {processor:.2f})")
        )
        print(rows[-1], flush=True)
    return rows


def read_speed(bench: Bench, pairs: int) -> list[Row]:
    """Inner products and weighted sums over all stacks against a plain read of as many bytes.

    Embeddings are left out: a step reads some rows of them only.
    """
    vectors = bench.vectors(8)
    lookups = bench.models(1).lookups
    gradients = {
        n: torch.randn(bench.base.tensors[n].shape) for n in bench.names if n not in lookups
    }
    coefficients = torch.rand(8)
    plain = torch.randn(8 * sum(gradient.numel() for gradient in gradients.values()))

    def engine() -> None:
        for name in gradients:
            vectors.stack(name).inner(gradients[name], rows=False)
            vectors.stack(name).add(gradients[name], coefficients)

    def read_twice() -> None:
        plain.sum(), plain.sum()

    wall, processor = ratio(read_twice, engine, pairs)
    found = f"{wall:.2f} (cpu {processor:.2f})"
    rows = [Row("task vectors read a second / plain read, K=8", found, ">= 0.6", processor >= 0.6)]
    print(rows[0], flush=True)
    return rows


def materialising(bench: Bench, experts: int, pairs: int) -> list[Row]:
    """Materialise against copying the same files: base and experts read, one model written."""
    made = [bench.expert_files(i) for i in range(experts)]
    tasks = [e.task for e in made]
    coefficients = Coefficients.constant(tasks, bench.names, 0.3)
    heads = {e.task: e.head for e in made}
    out = bench.work / "out"
    buffer = bytearray(1 << 22)

    def engine() -> None:
        materialise(ExpertSet(bench.base, tuple(made), KIND), coefficients, heads, out)

    def copies() -> None:
        for expert in made:
            with (expert.files.directory / "model.safetensors").open("rb") as file:
                while file.readinto(buffer):
                    pass
        target = bench.work / "copy.safetensors"
        shutil.copyfile(bench.directory / "model.safetensors", target)
        with target.open("rb+") as file:
            os.fsync(file.fileno())

    wall, processor = ratio(engine, copies, pairs)
    found = f"{wall:.2f} (cpu {processor:.2f})"
    rows = [
        Row(
            f"materialise / file copies of the same bytes, K={experts}",
            found,
            "<= 1.5",
            wall <= 1.5,
        )
    ]
    print(rows[0], flush=True)
    return rows


def storage(bench: Bench, pairs: int) -> list[Row]:
    """Bytes of the task vectors as they are kept, and what a step with them takes."""
    rows = []
    whole = bench.vectors(8).nbytes
    plain = bench.models(1)
    kept: Storage
    for kept in ("fp32", "bf16", "int8"):
        vectors = bench.vectors(8, kept)
        models = bench.models(1)
        merge = bench.merge(models, 8, kept)
        wall, processor = ratio(
            partial(bench.step, models, merge, 1), partial(bench.bare, plain, 1), pairs
        )
        found = f"{vectors.nbytes / whole:.2f}, {wall:.2f} (cpu {processor:.2f})"
        rows.append(Row(f"{kept} vectors: bytes / fp32's, step / bare (K=8, 1 micro-batch)", found))
        print(rows[-1], flush=True)
    return rows


def large_base(work: Path, small: Path) -> Path:
    """A random model of BERT base's size with the small base's vocabulary."""
    from transformers import BertConfig, BertModel

    directory = work / "bert-base-sized"
    if not directory.exists():
        vocabulary = json.loads((small / "config.json").read_text())["vocab_size"]
        BertModel(BertConfig(vocab_size=vocabulary, **LARGE)).save_pretrained(directory)
    return directory


def main() -> None:
    """Prints every row, and how many goals were reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs for each ratio")
    parser.add_argument(
        "--large", action="store_true", help="a 109 M model as well (10 GB of disk)"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    arguments = parser.parse_args()
    base = build_base(arguments.cache)
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="engine.") as folder:
        bench = Bench(base, Path(folder))
        print(f"{bench.model_bytes / 4e6:.1f} M parameters, {torch.get_num_threads()} threads\n")
        rows = step_times(bench, arguments.experts, arguments.pairs)
        rows += other_forms(bench, arguments.pairs)
        rows += memory(bench, arguments.experts)
        rows += read_speed(bench, arguments.pairs)
        rows += materialising(bench, 4, arguments.pairs)
        rows += storage(bench, arguments.pairs)
        if arguments.large:
            big = Bench(large_base(Path(folder), base), Path(folder))
            print(f"\n{big.model_bytes / 4e6:.1f} M parameters")
            rows += step_times(big, [2, 8], 3)
            rows += memory(big, [2, 8])
        reached = [row.reached for row in rows if row.reached is not None]
        print(f"\n{sum(reached)} of {len(reached)} goals reached")


if __name__ == "__main__":
    main()
