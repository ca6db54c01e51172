"""Whether a device learns what the CPU learns: gradients, runs, and runs that were killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from benchmarks.device_bench import Cut, DeviceBench, emptied, seconds
from benchmarks.device_steps import Add, Figure, Setting, traced
from benchmarks.synthetic import CLASSES, KIND
from merging.experts.expert import open_expert
from merging.learning.learn import Learned, learn_coefficients
from merging.learning.run import LearningRun
from merging.learning.state import StepRecord
from merging.safefile import save_tensors
from merging.settings import MergeSettings, Storage
from merging.vectors.expert_set import ExpertSet

CPU = torch.device("cpu")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]
FORMS: list[tuple[str, Storage, bool]] = [  # form, storage, whether by row
    ("dense", "fp32", False),
    ("dense", "fp32", True),
    ("dense", "bf16", False),
    ("dense", "int8", True),
    ("lora", "fp32", False),
    ("lora", "fp32", True),
    ("ia3", "fp32", False),
]


def agreement(setting: Setting, add: Add) -> None:
    """Gradients of one step, and coefficients after twenty, against the CPU's."""
    on_cpu = replace(setting, device=CPU)
    for form, storage, rows in FORMS:
        exact = on_cpu.bench("22 M", form, dtype=torch.float64)
        reference, _ = _run(exact, storage, rows, 1)
        errors = {}
        for name, where, autocast in (
            ("CPU fp32", on_cpu, False),
            ("device fp32", setting, False),
            ("device bf16 autocast", setting, True),
        ):
            with emptied(setting.device):
                found, _ = _run(where.bench("22 M", form, autocast=autocast), storage, rows, 1)
                errors[name] = _distance(found, reference)
        what = f"{form} {storage} by {'row' if rows else 'tensor'}"
        text = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        add(Figure(f"gradient of one step against fp64, {what}", text, errors))
    for form, storage, rows in (("dense", "fp32", True), ("lora", "fp32", False)):
        cpu, cpu_loss = _run(on_cpu.bench("22 M", form, autocast=False), storage, rows, 20)
        for autocast in (False, True):
            with emptied(setting.device):
                bench = setting.bench("22 M", form, autocast=autocast)
                found, loss = _run(bench, storage, rows, 20)
            values = {
                "coefficients": _distance(found, cpu),
                "loss": loss,
                "cpu_loss": cpu_loss,
            }
            add(
                Figure(
                    f"20 steps, {form} {'by row' if rows else 'by tensor'}, "
                    f"{'bf16 autocast' if autocast else 'fp32'}",
                    f"coefficients {values['coefficients']:.1e} from the CPU's, "
                    f"loss {loss:.5f}, CPU {cpu_loss:.5f}",
                    values,
                )
            )


def _run(
    bench: DeviceBench, storage: Storage, rows: bool, steps: int
) -> tuple[dict[str, Tensor], float]:
    """After one step the gradients, else the coefficients, by tensor in fp64; and the last loss."""
    models_ = bench.models(2)
    merge = bench.merge(models_, 4, storage, rows=rows)
    for _ in range(steps):
        bench.step(models_, merge, 2)
    with torch.no_grad():
        loss = float(bench.loss(models_, 0))
    if steps > 1:
        values = merge.coefficients(("a", "b", "c", "d")).values
        return {n: v.double().cpu() for n, v in values.items()}, loss
    found = {}
    for name, weights in merge.weights.items():
        state = weights.state()  # Adam's mean after one step is a tenth of the gradient
        part = "own.mean" if "own.mean" in state else "shared.mean"
        found[name] = 10 * state[part].double().cpu()
    return found, loss


def _distance(found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """‖found − reference‖ ÷ ‖reference‖ over all tensors."""
    a = torch.cat([found[n].flatten() for n in sorted(reference)])
    b = torch.cat([reference[n].flatten() for n in sorted(reference)])
    return float((a - b).norm() / b.norm())


def learning(setting: Setting, add: Add) -> None:
    """`learn_coefficients` from folders: against the CPU's, killed and resumed, and one step of it."""
    experts = learners(setting)
    settings = MergeSettings(steps=20, evaluate_every=5, calibration_size=200)

    def learn(name: str, device: torch.device, **progress: Any) -> Learned:
        work = setting.work / f"run-{name}"
        return learn_coefficients(experts, settings, work=work, device=device, **progress)

    found: dict[str, Learned] = {}

    def run(name: str, device: torch.device) -> None:
        found[name] = learn(name, device)

    times = {}
    for name, device in (("cpu", CPU), ("device", setting.device), ("again", setting.device)):
        with emptied(setting.device):
            times[name] = seconds(setting.device, partial(run, name, device))
    losses = {n: sum(f.history[-1].losses.values()) for n, f in found.items()}
    values = {f"{n}_s": t for n, t in times.items()} | {f"{n}_loss": x for n, x in losses.items()}
    text = ", ".join(f"{n} {losses[n]:.5f} ({times[n]:.1f} s)" for n in found)
    add(Figure("learn_coefficients, 20 steps, 4 experts: last losses", text, values))
    apart = {n: _distance(_values(found[n]), _values(found["cpu"])) for n in ("device", "again")}
    same = _distance(_values(found["again"]), _values(found["device"]))
    text = f"from the CPU's {apart['device']:.1e}, between two runs {same:.1e}"
    add(Figure("learn_coefficients: kept coefficients", text, {**apart, "between": same}))

    def die(record: StepRecord) -> None:
        if record.step == 13:
            raise KeyboardInterrupt

    try:
        learn("killed", setting.device, progress=die)
    except KeyboardInterrupt:
        resumed = learn("killed", setting.device)
    difference = _distance(_values(resumed), _values(found["device"]))
    add(
        Figure(
            "killed in step 13, resumed from step 10: kept coefficients",
            f"{difference:.1e} from the run that was not",
            {"difference": difference},
        )
    )
    original = LearningRun.learn_step

    def profiled(run: LearningRun, step: int) -> dict[str, float]:
        if step != 17:
            return original(run, step)
        kept: list[dict[str, float]] = []
        what = "learn_step of 4 tasks, by row"
        traced(setting, what, lambda: kept.append(original(run, step)), add, warm=0)
        return kept[0]

    with patch.object(LearningRun, "learn_step", profiled):
        learn("profiled", setting.device)


def _values(learned: Learned) -> dict[str, Tensor]:
    return {name: value.double() for name, value in learned.coefficients.values.items()}


def learners(setting: Setting) -> ExpertSet:
    """A base with tokenizer and four experts with examples, as folders."""
    bench = setting.bench("22 M")
    base = setting.work / "learning-base"
    if not base.exists():
        shutil.copytree(bench.directory, base)
        write_tokenizer(base)
    bench = DeviceBench(base, setting.work, setting.device)
    experts = []
    for number in range(4):
        directory = setting.work / f"learning-expert-{number}"
        if not directory.exists():
            directory.mkdir()
            write_expert(bench, number, directory)
        experts.append(open_expert(f"t{number}", directory, KIND))
    return ExpertSet.open(base, experts, KIND)


def write_expert(bench: DeviceBench, number: int, directory: Path) -> None:
    """The base with its noise and a head, and examples whose label is in their first word."""
    head, source = bench.head(number), Cut(bench.base, number, "dense")
    tensors = {}
    for name in bench.names:
        delta = source.delta(name)
        assert isinstance(delta, torch.Tensor)
        tensors[f"bert.{name}"] = bench.base.read(name).float() + delta
    save_tensors(directory / "model.safetensors", {**tensors, **head.tensors})
    (directory / "config.json").write_text(json.dumps(dict(head.config)))
    generator = torch.Generator().manual_seed(number)
    rows = []
    for _ in range(1000):
        length = int(torch.randint(8, 24, (), generator=generator))
        picks = torch.randint(0, len(WORDS), (length,), generator=generator).tolist()
        text = " ".join(WORDS[p] for p in picks)
        rows.append({"text": text, "label": f"label {(picks[0] + number) % CLASSES}"})
    pd.DataFrame(rows).to_json(directory / "examples.jsonl", orient="records", lines=True)


def write_tokenizer(directory: Path) -> None:
    """WordPiece over the made-up words."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
    ).save_pretrained(directory)
