"""What a merged backbone is worth for a task that none of its experts was trained for.

As in the paper's out-of-domain table, but with a linear probe: features of a frozen backbone,
logistic regression on the task's training rows, accuracy on its gate examples. The task left out is
each time one of the bench's own, merged without it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel

from benchmarks.laboratory import Laboratory, Result
from infra.demo.tasks import TASKS
from merging.models.folder import MergedFolder
from merging.serving import Encoder
from merging.settings import MergeSettings


def out_of_domain(laboratory: Laboratory, variants: Mapping[str, MergeSettings]) -> None:
    """Prints accuracy of a probe on the base, on each expert, and on merges of the experts."""
    print("\n### Linear probe on a task left out\n")
    merges = " | ".join(f"merged by {name}" for name in variants)
    print(f"| left out | base | best single expert | {merges} | its own expert |")
    print("|---" * (4 + len(variants)) + "|")
    for left_out in laboratory.experts:
        others = [task for task in laboratory.experts if task != left_out]
        base = _probe(laboratory, left_out, "base", laboratory.bench.experts.base.directory)
        singles = {
            task: _probe(laboratory, left_out, task, laboratory.experts[task].files.directory)
            for task in laboratory.experts
        }
        best = max(others, key=lambda task: singles[task])
        found = [_probe_merged(laboratory, left_out, others, s) for s in variants.values()]
        merged = " | ".join(f"{accuracy:.3f}" for accuracy in found)
        print(
            f"| {left_out} | {base:.3f} | {singles[best]:.3f} ({best}) | {merged} "
            f"| {singles[left_out]:.3f} |",
            flush=True,
        )


def _probe_merged(
    laboratory: Laboratory, task: str, others: list[str], settings: MergeSettings
) -> float:
    name = f"probe {task} on the merge of {others} {settings.digest}"

    def make() -> Result:
        with tempfile.TemporaryDirectory(dir=laboratory.work) as folder:
            out = Path(folder) / "out"
            laboratory.write(laboratory.learn(settings, others), out)
            return Result({task: probe_accuracy(laboratory, task, MergedFolder(out).model)})

    return laboratory.remember(name, make).accuracy[task]


def _probe(laboratory: Laboratory, task: str, name: str, model: Path) -> float:
    def make() -> Result:
        return Result({task: probe_accuracy(laboratory, task, model)})

    return laboratory.remember(f"probe {task} on {name}", make).accuracy[task]


def probe_accuracy(laboratory: Laboratory, task: str, model: Path) -> float:
    """Accuracy of logistic regression on a frozen backbone's features."""
    experts = laboratory.bench.experts
    table = TASKS[task].table(laboratory.work.parent)
    rows = table[table["split"] == "train"]
    backbone = AutoModel.from_pretrained(model).eval()
    encoder = Encoder(experts.base.directory, experts.kind, backbone)
    train = _features(backbone, encoder, rows[TASKS[task].column].tolist())
    labels = laboratory.experts[task].head.labels
    targets = rows["label"].map({label: i for i, label in enumerate(labels)}).to_numpy()
    mean, scale = train.mean(axis=0), train.std()
    probe = LogisticRegression(C=0.03, max_iter=300).fit((train - mean) / scale, targets)
    gate = laboratory.gate[task]
    tested = (_features(backbone, encoder, list(gate.inputs)) - mean) / scale
    return float((probe.predict(tested) == np.array(gate.targets)).mean())


@torch.inference_mode()
def _features(backbone: Any, encoder: Encoder, inputs: list[Any]) -> npt.NDArray[np.float32]:
    """Mean of the last hidden states over tokens or patches, [inputs, hidden]."""
    found = np.empty((len(inputs), backbone.config.hidden_size), np.float32)
    for indices, batch in encoder.batches(encoder.encode(inputs)):
        states = backbone(**batch).last_hidden_state
        mask = (
            batch["attention_mask"] if "attention_mask" in batch else torch.ones(states.shape[:2])
        )
        weights = mask.unsqueeze(2).to(states.dtype)
        found[indices] = ((states * weights).sum(1) / weights.sum(1)).numpy()
    return found
