"""What is around a step on a device: copies to it, evaluation, serving, and a second process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.device_agreement import learners
from benchmarks.device_bench import emptied, seconds, wait
from benchmarks.device_steps import Add, Figure, Setting
from benchmarks.synthetic import KIND
from merging.experts.checkpoint import digest_file
from merging.models.coefficients import Coefficients
from merging.models.evaluate import LoadedModel
from merging.models.materialise import materialise
from merging.serving import MANIFEST, MergedModel
from merging.vectors.backbone import Backbone
from merging.vectors.feed import feed_for, send_all

STEPS = 30  # of each of two processes


def copies(setting: Setting, add: Add) -> None:
    """Bytes a second from the mapped file to the device, as a whole and by its parts."""
    bench = setting.bench("109 M")
    vectors = bench.vectors(8)
    names = [n for n in vectors.names if n not in bench.lookups()]
    parts: list[Any] = [part for n in names for part in vectors.stack(n).parts]
    stacks = [part.stack for part in parts]
    largest = max(stacks, key=lambda stack: stack.nbytes)
    pinned = torch.empty_like(largest, pin_memory=setting.device.type == "cuda")

    def speed(what: str, nbytes: int, run: Callable[[], Any]) -> None:
        run()
        rate = nbytes / min(seconds(setting.device, run) for _ in range(5)) / 1e9
        add(Figure(what, f"{rate:.1f} GB/s", {"gb_per_s": rate}))

    speed(
        "mapped file (in the page cache) to pinned memory",
        largest.nbytes,
        lambda: pinned.copy_(largest),
    )
    speed(
        "pinned memory to device",
        largest.nbytes,
        lambda: pinned.to(setting.device, non_blocking=True),
    )
    there = pinned.to(setting.device)
    speed("device to device, bytes read and written", 2 * there.nbytes, lambda: there.clone())
    gradient = torch.randn(there.shape[1:], device=setting.device)
    resident = type(parts[0])(torch.arange(8), there)
    speed(
        "inner products of a resident stack",
        there.nbytes,
        lambda: resident.inner(gradient, rows=False),
    )
    speed("inner products by row", there.nbytes, lambda: resident.inner(gradient, rows=True))
    out, some = torch.zeros_like(gradient), torch.rand(8, device=setting.device)
    speed("weighted sum of a resident stack", there.nbytes, lambda: resident.add(out, some))
    total = sum(stack.nbytes for stack in stacks) + sum(vectors.base(n).nbytes for n in names)
    feed = feed_for(vectors, setting.device)

    def ask_all() -> None:
        for name in names:
            for tile in vectors.tiles(name):
                feed.tile(name, tile)

    speed("the engine's feed, streamed", total, ask_all)
    what = "the same, sent once to stay"
    speed(what, total, lambda: [send_all(vectors, name, setting.device) for name in names])


def serving(setting: Setting, add: Add) -> None:
    """Examples a second of evaluation and serving, copies held, and materialising."""
    experts = learners(setting)
    coefficients = Coefficients.constant(experts.tasks, experts.names, 0.3)
    out = setting.work / "merged"
    took = seconds(setting.device, lambda: materialise(experts, coefficients, experts.heads, out))
    add(Figure("materialise, 22 M, 4 experts (always on the CPU)", f"{took:.2f} s", {"s": took}))
    files = {
        path.relative_to(out).as_posix(): digest_file(path)
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
    (out / MANIFEST).write_text(json.dumps({"kind": KIND, "files": files}))
    texts = list(experts.experts[0].split.gate.inputs) * (1 if setting.small else 10)
    cpu = torch.device("cpu")
    backbone = Backbone.open(out / "model", KIND)
    for where in dict.fromkeys([setting.device, cpu]):
        some = texts if where.type == "cuda" else texts[:200]
        with emptied(setting.device):
            loaded = LoadedModel(backbone, experts.heads["t0"], KIND, where)
            loaded.answer(some[:64])
            rate = len(some) / seconds(setting.device, partial(loaded.answer, some))
            encode = len(some) / seconds(cpu, partial(loaded.encoder.encode, some))
        add(
            Figure(
                f"evaluation on {where.type}, 22 M",
                f"{rate:.0f} texts/s (encoding alone {encode:.0f} texts/s)",
                {"texts_per_s": rate, "encode_per_s": encode},
            )
        )
    before = torch.cuda.memory_allocated() if setting.device.type == "cuda" else 0
    merged = MergedModel(out, setting.device)
    held = torch.cuda.memory_allocated() - before if setting.device.type == "cuda" else 0
    merged.answer("t0", texts[:64])
    many = seconds(setting.device, lambda: merged.answer("t0", texts))
    one = min(seconds(setting.device, lambda: merged.answer("t0", texts[:1])) for _ in range(20))
    size = (out / "model" / "model.safetensors").stat().st_size
    add(
        Figure(
            "serving of 4 tasks, 22 M",
            f"{len(texts) / many:.0f} texts/s, one text {1e3 * one:.1f} ms, holds {held / size:.2f} models",
            {"texts_per_s": len(texts) / many, "one_s": one, "models_held": held / size},
        )
    )


def two_processes(setting: Setting, add: Add) -> None:
    """Two processes on one device: how much slower each is, and whether both learn the same."""
    setting.bench("22 M").vectors(8)
    alone = _processes(setting, 1)
    both = _processes(setting, 2)
    slower = max(p["s"] for p in both) / alone[0]["s"]
    same = len({p["loss"] for p in (*alone, *both)}) == 1
    text = f"each takes {slower:.2f} times as long; losses {'equal' if same else 'differ'}"
    losses = {f"loss_{i}": p["loss"] for i, p in enumerate((*alone, *both))}
    add(Figure("two processes on one device, 22 M, K=8", text, {"slower": slower, **losses}))


def _processes(setting: Setting, count: int) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.device", "--work", str(setting.work)]
    command += ["--worker", str(count), *(["--small"] if setting.small else [])]
    command += ["--cpu"] if setting.device.type == "cpu" else []
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]


def worker(setting: Setting, count: int) -> None:
    """What `two_processes` starts: steps that begin when `count` processes are ready."""
    bench = setting.bench("22 M")
    models = bench.models(1)
    merge = bench.merge(models, 8)
    for _ in range(3):
        bench.step(models, merge, 8)
    wait(setting.device)
    ready = setting.work / f"ready-{count}"
    ready.mkdir(exist_ok=True)
    (ready / str(os.getpid())).touch()
    while len(list(ready.iterdir())) < count:
        time.sleep(0.01)

    def run() -> None:
        for _ in range(3 if setting.small else STEPS):
            bench.step(models, merge, 8)

    took = seconds(setting.device, run)
    with torch.no_grad():
        loss = float(bench.loss(models, 0))
    print(json.dumps({"s": took, "loss": loss}))
