"""What a step takes on a device: time beside the bare passes, a profile of one, and memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.device_bench import DeviceBench, emptied, in_turn, random_base, seconds, wait
from benchmarks.synthetic import BATCH, KIND, TOKENS
from merging.learning.merge import Merge
from merging.learning.plan import Memory, make_plan
from merging.learning.resident import ResidentMerge
from merging.learning.stream import StreamedMerge
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet
from merging.vectors.feed import MappedFeed


@dataclass(frozen=True)
class Figure:
    """One thing that was measured.

    Attributes:
        what: In words.
        found: For a reader.
        values: The same as numbers.
    """

    what: str
    found: str
    values: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line of the table."""
        return f"{self.what:<72} {self.found}"


Add = Callable[[Figure], None]


@dataclass(frozen=True)
class Setting:
    """Where it runs, the scratch folder, and whether only the command itself is tried."""

    device: torch.device
    work: Path
    small: bool = False

    @property
    def autocast(self) -> bool:
        """Whether a learning run computes in bf16 here."""
        return self.device.type == "cuda"

    def bench(self, size: str, form: str = "dense", **options: Any) -> DeviceBench:
        """A base of that size with experts of that form, in the precision that learning has here."""
        if self.small:
            size = "tiny llama" if size == "1 B" else "tiny"
        base = random_base(size, self.work, self.device)
        options = {"autocast": self.autocast, **options}
        return DeviceBench(base, self.work, self.device, form, **options)


def steps(setting: Setting, add: Add) -> None:
    """Step ÷ bare forwards and backwards, in the same run and in turn."""
    for size, form, counts in (
        ("22 M", "dense", [2, 4, 8, 16, 32]),
        ("109 M", "dense", [2, 8, 32]),
        ("109 M", "lora", [8]),
        ("1 B", "lora", [8]),
    ):
        _grid(setting, setting.bench(size, form), size, counts, add)
    _grid(setting, setting.bench("109 M"), "109 M", [8], add, streamed=True)
    _grid(setting, setting.bench("22 M"), "22 M", [8], add, rows=True)
    _grid(setting, setting.bench("109 M"), "109 M", [8], add, rows=True)


def steps_in_16_bits(setting: Setting, add: Add) -> None:
    """The same for a model whose parameters and gradients are bf16."""
    bench = setting.bench("1 B", "lora", dtype=torch.bfloat16, autocast=False)
    _grid(setting, bench, "1 B in bf16", [2, 8, 32], add)


def _grid(
    setting: Setting, bench: DeviceBench, size: str, counts: list[int], add: Add, **how: bool
) -> None:
    for experts in counts[:2] if setting.small else counts:
        with emptied(setting.device):
            _step_times(bench, size, experts, add, **how)
        _forget(bench, experts)


def _step_times(bench: DeviceBench, size: str, experts: int, add: Add, **how: bool) -> None:
    plain, models = bench.models(1), bench.models(1)
    merge = bench.merge(models, experts, "fp32", **how)
    kind = " ".join([bench.form, *(["by row"] if how.get("rows") else []), _way(merge)])
    for batches in (8, 1):
        ratio, step, bare = in_turn(
            bench.device,
            partial(bench.step, models, merge, batches),
            partial(bench.bare, plain, batches),
            7,
        )
        add(
            Figure(
                f"step / bare, {size}, {kind}, K={experts}, {batches} micro-batches",
                f"{ratio:.2f}  ({1e3 * step:.1f} ms, bare {1e3 * bare:.1f} ms)",
                {"ratio": ratio, "step_s": step, "bare_s": bare},
            )
        )


def _forget(bench: DeviceBench, experts: int) -> None:
    """Deletes a file of task vectors: all of them together would fill the disk."""
    if experts != 8:
        for path in bench.work.glob(f"{bench.directory.name}-{bench.form}-{experts}-*"):
            path.unlink()


def profiles(setting: Setting, add: Add) -> None:
    """Launches, copies and waits of one step, of its own and of the bare passes."""
    for size, form in (("22 M", "dense"), ("109 M", "dense"), ("1 B", "lora")):
        with emptied(setting.device):
            _profile(setting, setting.bench(size, form), size, add)


def _profile(setting: Setting, bench: DeviceBench, size: str, add: Add) -> None:
    models = bench.models(1)
    traced(setting, f"bare, {size}, 1 micro-batch", lambda: bench.bare(models, 1), add)
    for streamed in (False, True):
        with emptied(setting.device):
            _profile_step(setting, bench, size, streamed, add)


def _profile_step(
    setting: Setting, bench: DeviceBench, size: str, streamed: bool, add: Add
) -> None:
    models = bench.models(1)
    merge = bench.merge(models, 8, streamed=streamed)
    what = f"step, {size}, {bench.form} {_way(merge)}, K=8, 1 micro-batch"
    traced(setting, what, lambda: bench.step(models, merge, 1), add)


def traced(
    setting: Setting, what: str, run: Callable[[], Any], add: Add, warm: int = 3
) -> dict[str, float]:
    """Counts what one call gives the device to do, from a trace of `torch.profiler`."""
    for _ in range(warm):
        run()
    wait(setting.device)
    activities = [ProfilerActivity.CPU]
    if setting.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    path = setting.work / "trace.json"
    with profile(activities=activities) as profiler:
        elapsed = seconds(setting.device, run)
    profiler.export_chrome_trace(str(path))
    counts = trace_counts(json.loads(path.read_text())["traceEvents"], elapsed)
    found = ", ".join(f"{name} {value:g}" for name, value in counts.items())
    add(Figure(f"profile of {what}", found, counts))
    return counts


def trace_counts(events: list[dict[str, Any]], elapsed: float) -> dict[str, float]:
    """Numbers of a trace; waits are the host's for the device, but for the two around the call."""
    on_device = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    copies = [e for e in on_device if e["cat"] == "gpu_memcpy"]
    calls = [e for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver")]
    waits = [e for e in calls if "Synchronize" in e["name"]]
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in on_device)
    busy, end = 0.0, 0.0
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    counts: dict[str, float] = {
        "ms": round(1e3 * elapsed, 2),
        "kernels": sum(e["cat"] == "kernel" for e in on_device),
        "waits": max(0, len(waits) - 2),
        "busy_share": round(busy / 1e6 / elapsed, 3),
        "item_calls": sum(e.get("name") == "aten::_local_scalar_dense" for e in events),
    }
    for short, name in (("to_device", "HtoD"), ("to_host", "DtoH")):
        some = [e for e in copies if name in e["name"]]
        counts[short] = len(some)
        counts[f"{short}_mb"] = round(sum(e["args"].get("bytes", 0) for e in some) / 1e6, 2)
    return counts


def peaks(setting: Setting, add: Add) -> None:
    """The allocator's peak over three steps against the plan's."""
    if setting.device.type != "cuda":
        add(Figure("peak against plan", "not measured: no CUDA"))
        return
    for size, experts, streamed in (
        ("22 M", 8, False),
        ("109 M", 2, False),
        ("109 M", 8, False),
        ("109 M", 8, True),
    ):
        bench = setting.bench(size)
        with emptied(setting.device):
            _peak(setting, bench, size, experts, streamed, add)
        _forget(bench, experts)


def _peak(
    setting: Setting, bench: DeviceBench, size: str, experts: int, streamed: bool, add: Add
) -> None:
    made = ExpertSet(
        bench.base, tuple(bench.expert(i, bench.directory) for i in range(experts)), KIND
    )
    settings = MergeSettings(batch_size=BATCH)
    memory = Memory.of(setting.device)
    plan = make_plan(made, settings, memory, tokens=TOKENS)
    if streamed:  # with a byte too little for all of them
        memory = Memory(memory.host, plan.peak - 1)
        plan = make_plan(made, settings, memory, tokens=TOKENS)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    models = bench.models(1)
    merge = bench.merge(models, experts, streamed=streamed)
    for _ in range(3):
        bench.step(models, merge, 8)
    peak = torch.cuda.max_memory_allocated() - before
    add(
        Figure(
            f"peak, {size}, K={experts}, 8 micro-batches, {_way(merge)}",
            f"{peak / 1e6:.0f} MB, planned {plan.peak / 1e6:.0f} MB, "
            f"plan / measured {plan.peak / peak:.2f}",
            {"peak": peak, "reserved": torch.cuda.max_memory_reserved(), **_bytes(plan)},
        )
    )


def _bytes(plan: Any) -> dict[str, float]:
    return {k: v for k, v in plan.to_json().items() if isinstance(v, int)}


def _way(merge: Merge) -> str:
    """How task vectors get to where they are computed with."""
    if isinstance(merge, ResidentMerge):
        return "resident"
    assert isinstance(merge, StreamedMerge)
    return "mapped" if isinstance(merge.feed, MappedFeed) else "streamed"
