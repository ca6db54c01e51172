"""Peak memory of learning steps, each measured in a process of its own.

python -m benchmarks.peak FORM EXPERTS BASE FOLDER      # what `peak_bytes` runs
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.synthetic import BATCH, CPU, KIND, TOKENS, Bench, Row, autograd_step
from merging.learning.plan import Memory, make_plan
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet

TASKS = 8  # micro-batches of a streamed step; the forms it is compared with hold those of one task


def peak_bytes(base: Path, work: Path, form: str, experts: int) -> int:
    """Peak resident memory of three steps above the idle process, in a process of its own."""
    arguments = [sys.executable, "-m", "benchmarks.peak", form, str(experts), str(base)]
    arguments.append(str(work))
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def measure_peak(form: str, experts: int, base: Path, work: Path) -> None:
    """What `peak_bytes` runs: VmHWM, which counts mapped file pages too."""
    bench = Bench(base, work)
    bench.vectors(experts)  # their file is written before the count begins
    warm = torch.nn.Linear(64, 64)
    warm(torch.randn(8, 64)).sum().backward()  # libraries load before the count begins

    def run() -> None:
        tasks = TASKS if form == "streamed" else 1
        models = bench.models(tasks)
        if form == "streamed":
            merge = bench.merge(models, experts)
            for _ in range(3):
                bench.step(models, merge, tasks)
        else:
            vectors = bench.vectors(experts)
            for _ in range(2):
                autograd_step(bench, models, vectors, form)

    print(json.dumps({"peak": peak_above(run)[1]}))


def peak_above(run: Callable[[], Any]) -> tuple[Any, int]:
    """What a function gives, and the peak of resident memory above what was there before it."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmHWM")
    given = run()
    return given, _status("VmHWM") - before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def memory(bench: Bench, sizes: list[int]) -> list[Row]:
    """Peak memory of each form by number of experts, and what one more expert takes."""
    rows = []
    peaks = {k: peak_bytes(bench.directory, bench.work, "streamed", k) for k in sizes}
    for experts, peak in peaks.items():
        rows.append(Row(f"peak memory of streamed steps, K={experts}", f"{peak / 1e6:.0f} MB"))
    if more := sizes[-1] - sizes[0]:
        slope = (peaks[sizes[-1]] - peaks[sizes[0]]) / more / bench.model_bytes
        share = f"{100 * slope:.1f} % of model"
        rows.append(Row("more memory per expert, streamed", share, "< 5 %", slope < 0.05))
    few = [k for k in sizes if k <= 8]
    for form in ("autograd", "AdaMerging sum"):
        found = {k: peak_bytes(bench.directory, bench.work, form, k) for k in few}
        for experts, peak in found.items():
            rows.append(Row(f"peak memory of {form}, K={experts}", f"{peak / 1e6:.0f} MB"))
    experts = sizes[len(sizes) // 2]
    predicted = predicted_peak(bench, experts)
    error = predicted / peaks[experts] - 1
    rows.append(
        Row(
            f"planner's prediction against measured peak, K={experts}",
            f"{predicted / 1e6:.0f} MB, {100 * error:+.0f} %",
            "+-20 %",
            abs(error) <= 0.2,
        )
    )
    for row in rows:
        print(row, flush=True)
    return rows


def predicted_peak(bench: Bench, experts: int) -> int:
    """The planner's peak for the batches of this benchmark."""
    made = [bench.expert(i, bench.directory) for i in range(experts)]
    settings = MergeSettings(batch_size=BATCH)
    expert_set = ExpertSet(bench.base, tuple(made), KIND)
    return make_plan(expert_set, settings, Memory.of(CPU), tokens=TOKENS).peak


if __name__ == "__main__":
    form, experts, base, work = sys.argv[1:]
    measure_peak(form, int(experts), Path(base), Path(work))
