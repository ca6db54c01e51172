"""Fine-tunes one real expert: every weight of the base on the training rows of one task.

    expert = train_expert(TASKS["movie-review"], build_base(cache), cache / "experts")

The result is what people bring to the merge queue: the checkpoint as transformers saves it, the
base's tokenizer, and `examples.parquet` with labelled rows that were not trained on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from infra.demo.tasks import DemoTask

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = (
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Recipe:
    """How an expert is trained; with base and rows it determines the expert."""

    epochs: int = 2
    batch_size: int = 32
    backbone_rate: float = 1e-4
    head_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_tokens: int = 64
    seed: int = 0


@dataclass(frozen=True)
class TrainingStep:
    """What the progress callback is told after each step."""

    task: str
    step: int
    steps: int
    loss: float


def train_expert(
    task: DemoTask,
    base: Path,
    out_root: Path,
    *,
    shuffle_labels: bool = False,
    recipe: Recipe | None = None,
    cache: Path | None = None,
    progress: Callable[[TrainingStep], None] | None = None,
) -> Path:
    """Trains the expert of a task, or gives the one that an earlier call has trained.

    With `shuffle_labels` it learns labels drawn from other rows, which makes an expert that is
    worse than the base, while its examples keep the true labels. Downloads are kept in `cache`, by
    default the folder that holds `out_root`.

    Raises:
        Unavailable: the task's data cannot be downloaded.
    """
    # One epoch on a third of the rows spoils an expert well enough.
    recipe = recipe or Recipe(epochs=1 if shuffle_labels else 2)
    table = task.table(cache or out_root.parent)
    name = f"{task.name}-shuffled" if shuffle_labels else task.name
    expert = out_root / f"{name}-{_digest(base, table, recipe, shuffle_labels)}"
    if expert.is_dir():
        return expert

    rows = table[table["split"] == "train"]
    if shuffle_labels:
        rows = rows.head(len(rows) // 3)
        rows = rows.assign(label=rows["label"].sample(frac=1, random_state=recipe.seed).to_numpy())
    out_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_root) as scratch:
        folder = Path(scratch) / expert.name
        started = time.monotonic()
        model = _fine_tune(name, base, rows, sorted(table["label"].unique()), recipe, progress)
        logger.info("trained %s in %.0f s", name, time.monotonic() - started)
        model.save_pretrained(folder)
        for file in _TOKENIZER_FILES:
            if (base / file).is_file():
                shutil.copy(base / file, folder)
        examples = table[table["split"] != "train"].reset_index(drop=True)
        examples.to_parquet(folder / "examples.parquet", index=False)
        folder.replace(expert)  # last, so that an expert that exists is whole
    return expert


def _fine_tune(
    name: str,
    base: Path,
    rows: pd.DataFrame,
    labels: list[str],
    recipe: Recipe,
    progress: Callable[[TrainingStep], None] | None,
) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = tokenizer(rows["text"].tolist(), truncation=True, max_length=recipe.max_tokens)
    tokens: list[list[int]] = encoded["input_ids"]
    targets = torch.tensor(pd.Categorical(rows["label"], categories=labels).codes).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            base, id2label=dict(enumerate(labels)), label2id={v: k for k, v in enumerate(labels)}
        )
        _probe(model, tokenizer, tokens, targets)
        head = set(model.classifier.parameters())
        backbone = [p for p in model.parameters() if p not in head]
        optimizer = torch.optim.AdamW(
            [
                {"params": backbone, "lr": recipe.backbone_rate},
                {"params": list(head), "lr": recipe.head_rate},
            ],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        batches = list(_batches(tokens, recipe))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _ramp(len(batches), recipe.warmup))
        model.train()
        for step, batch in enumerate(batches, start=1):
            optimizer.zero_grad()
            logits = model(**_pad(tokenizer, tokens, batch)).logits
            loss = torch.nn.functional.cross_entropy(logits, targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(TrainingStep(name, step, len(batches), loss.item()))
    return model.eval()


def _probe(model: Any, tokenizer: Any, tokens: list[list[int]], targets: Tensor) -> None:
    """Starts the head as a logistic regression on the frozen base, so that it fits from step 1."""
    model.eval()
    features: list[Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    by_length = np.argsort([len(row) for row in tokens], kind="stable")
    with torch.inference_mode():
        for start in range(0, len(by_length), 128):
            model(**_pad(tokenizer, tokens, by_length[start : start + 128]))
    hook.remove()
    inputs = torch.cat(features).numpy()
    mean, scale = inputs.mean(axis=0), inputs.std()
    regression = LogisticRegression(C=0.03, max_iter=300)
    regression.fit((inputs - mean) / scale, targets.numpy()[by_length])
    weight = regression.coef_ / scale  # [labels, hidden]
    bias = regression.intercept_ - weight @ mean
    if len(weight) == 1:  # two labels: scikit-learn keeps only the logit of the second
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(weight))
        model.classifier.bias.copy_(torch.from_numpy(bias))


def _batches(tokens: list[list[int]], recipe: Recipe) -> Iterator[np.ndarray]:
    """Row numbers of each batch; within 16 batches rows of like length go together."""
    random = np.random.default_rng(recipe.seed)
    lengths = np.array([len(row) for row in tokens])
    for _ in range(recipe.epochs):
        order = random.permutation(len(tokens))
        batches = []
        for start in range(0, len(order), 16 * recipe.batch_size):
            part = order[start : start + 16 * recipe.batch_size]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches += [
                part[i : i + recipe.batch_size] for i in range(0, len(part), recipe.batch_size)
            ]
        yield from (batches[i] for i in random.permutation(len(batches)))


def _pad(tokenizer: Any, tokens: list[list[int]], batch: np.ndarray) -> dict[str, Tensor]:
    return dict(tokenizer.pad({"input_ids": [tokens[i] for i in batch]}, return_tensors="pt"))


def _ramp(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate: up over the first steps, then linearly down to zero."""
    rise = max(1, round(steps * warmup))
    return lambda step: min((step + 1) / rise, (steps - step) / (steps - rise + 1))


def _digest(base: Path, table: pd.DataFrame, recipe: Recipe, shuffled: bool) -> str:
    content = hashlib.sha256(json.dumps([dataclasses.asdict(recipe), shuffled]).encode())
    content.update(table.to_csv(index=False).encode())
    for file in sorted(base.iterdir()):
        content.update(file.name.encode())
        content.update(file.read_bytes())
    return content.hexdigest()[:16]
