"""The learning engine on whatever accelerator there is: is it right, how fast, what does it hold.

    python -m benchmarks.device --out device           # all parts; about six minutes on an H200
    python -m benchmarks.device --small                # tiny models, to try the command itself
    python -m benchmarks.device --parts steps profile  # some parts only

Models are random, of real sizes, and made on the spot; experts are noise. It needs torch,
transformers, safetensors, pandas, scikit-learn, scipy and pydantic, and no network. Without CUDA the
same runs on the CPU, and the first line says so. A part that fails is reported as failed and the next
one begins; `device.json` and `device.txt` in the output folder are written after every part.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import platform
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers

from benchmarks.device_agreement import agreement, learning
from benchmarks.device_bench import emptied
from benchmarks.device_serving import copies, serving, two_processes, worker
from benchmarks.device_steps import Figure, Setting, peaks, profiles, steps, steps_in_16_bits


@dataclass
class Report:
    """What was measured so far, on the screen and in two files."""

    out: Path
    facts: dict[str, str]
    figures: list[Figure] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def part(self, name: str, run: Callable[[], object], device: torch.device) -> None:
        """Runs a part; where it fails its traceback is what was found."""
        print(f"\n## {name}", flush=True)
        begun = time.perf_counter()
        try:
            with emptied(device):
                run()
        except Exception:  # noqa: BLE001 - the next part still tells something
            self.failures[name] = traceback.format_exc()
            print(self.failures[name], flush=True)
        print(f"({time.perf_counter() - begun:.0f} s)", flush=True)
        self.write()

    def add(self, figure: Figure) -> None:
        """Prints and keeps a figure."""
        self.figures.append(figure)
        print(figure, flush=True)

    def write(self) -> None:
        """Writes both files anew."""
        content = {
            "facts": self.facts,
            "figures": [asdict(figure) for figure in self.figures],
            "failures": self.failures,
        }
        (self.out / "device.json").write_text(json.dumps(content, indent=1) + "\n")
        lines = [f"{name}: {fact}" for name, fact in self.facts.items()]
        lines += [str(figure) for figure in self.figures]
        lines += [f"FAILED {name}\n{trace}" for name, trace in self.failures.items()]
        (self.out / "device.txt").write_text("\n".join(lines) + "\n")


def facts_of(device: torch.device) -> dict[str, str]:
    """Machine and versions, for whoever reads the figures."""
    facts = {
        "device": f"no CUDA: this ran on the CPU, {platform.processor() or platform.machine()}",
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        facts["driver, memory"] = subprocess.run(
            query, capture_output=True, text=True, check=False
        ).stdout.strip()
    return facts


def main() -> None:
    """Runs the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("device"), help="folder of the results")
    parser.add_argument("--work", type=Path, help="scratch folder; a temporary one by default")
    parser.add_argument("--small", action="store_true", help="tiny models and few experts")
    parser.add_argument("--cpu", action="store_true", help="the CPU even where there is CUDA")
    parser.add_argument("--parts", nargs="+", help="only these")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    with tempfile.TemporaryDirectory(prefix="device.") as folder:
        setting = Setting(device, options.work or Path(folder), options.small)
        setting.work.mkdir(parents=True, exist_ok=True)
        if options.worker is not None:
            worker(setting, options.worker)
            return
        options.out.mkdir(parents=True, exist_ok=True)
        report = Report(options.out, facts_of(device))
        for name, fact in report.facts.items():
            print(f"{name}: {fact}")
        parts = {
            "agreement": lambda: agreement(setting, report.add),
            "learning": lambda: learning(setting, report.add),
            "steps": lambda: steps(setting, report.add),
            "bf16": lambda: steps_in_16_bits(setting, report.add),
            "profile": lambda: profiles(setting, report.add),
            "peak": lambda: peaks(setting, report.add),
            "copies": lambda: copies(setting, report.add),
            "serving": lambda: serving(setting, report.add),
            "processes": lambda: two_processes(setting, report.add),
        }
        for name, run in parts.items():
            if not options.parts or name in options.parts:
                report.part(name, run, device)
        failed = ", ".join(report.failures) or "none"
        print(f"\n{len(report.figures)} figures in {options.out}; failed parts: {failed}")


if __name__ == "__main__":
    main()
