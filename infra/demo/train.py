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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from infra.demo.folders import made_whole
from infra.demo.tasks import DemoTask
from merging.serving import Encoder, model_class

logger = logging.getLogger(__name__)

# These files turn inputs into tensors; an expert carries its base's, byte for byte.
_INPUT_FILES = (
    "preprocessor_config.json",
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

    With `shuffle_labels` it learns labels drawn from other rows, which makes an expert that knows
    nothing, while its examples keep the true labels. Downloads are kept in `cache`, by default the
    folder that holds `out_root`.

    Raises:
        Unavailable: The task's data cannot be downloaded.
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
    with made_whole(expert) as folder:
        started = time.monotonic()
        labels = sorted(table["label"].unique())
        with _fast_products():
            model = _fine_tune(name, task, base, rows, labels, recipe, progress)
        logger.info("trained %s in %.0f s", name, time.monotonic() - started)
        model.save_pretrained(folder)
        for file in _INPUT_FILES:
            if (base / file).is_file():
                shutil.copy(base / file, folder)
        examples = table[table["split"] != "train"].reset_index(drop=True)
        examples.to_parquet(folder / "examples.parquet", index=False)
    return expert


def _fine_tune(
    name: str,
    task: DemoTask,
    base: Path,
    rows: pd.DataFrame,
    labels: list[str],
    recipe: Recipe,
    progress: Callable[[TrainingStep], None] | None,
) -> Any:
    names = dict(enumerate(labels))
    targets = torch.tensor(pd.Categorical(rows["label"], categories=labels).codes).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        config = json.loads((base / "config.json").read_text())
        model = model_class(config, task.kind)[0].from_pretrained(
            base, id2label=names, label2id={label: index for index, label in names.items()}
        )
        encoder = Encoder(base, task.kind, model)
        inputs = encoder.encode(rows[task.column].tolist())
        _probe(model, encoder, inputs, targets)
        head = list(model.classifier.parameters())
        backbone = [p for p in model.base_model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {"params": backbone, "lr": recipe.backbone_rate},
                {"params": head, "lr": recipe.head_rate},
            ],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        batches = list(_batches(inputs, recipe))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _ramp(len(batches), recipe.warmup))
        model.train()
        for step, batch in enumerate(batches, start=1):
            optimizer.zero_grad()
            logits = model(**encoder.collate([inputs[i] for i in batch])).logits
            loss = torch.nn.functional.cross_entropy(logits, targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(TrainingStep(name, step, len(batches), loss.item()))
    return model.eval()


def _probe(model: Any, encoder: Encoder, inputs: list[dict[str, Any]], targets: Tensor) -> None:
    """Starts the head as a logistic regression on the frozen base, so that it fits from step 1."""
    model.eval()
    seen: list[Tensor] = []
    order: list[int] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        for indices, batch in encoder.batches(inputs):
            model(**batch)
            order += indices
    hook.remove()
    features = torch.cat(seen).numpy()
    mean, scale = features.mean(axis=0), features.std()
    regression = LogisticRegression(C=0.03, max_iter=300)
    regression.fit((features - mean) / scale, targets.numpy()[order])
    weight = regression.coef_ / scale  # [labels, hidden]
    bias = regression.intercept_ - weight @ mean
    if len(weight) == 1:  # Of two labels scikit-learn keeps only the logit of the second.
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(weight))
        model.classifier.bias.copy_(torch.from_numpy(bias))


def _batches(inputs: list[dict[str, Any]], recipe: Recipe) -> Iterator[list[int]]:
    """Row numbers of each batch; among 16 batches, texts of like length go together."""
    random = np.random.default_rng(recipe.seed)
    for _ in range(recipe.epochs):
        order = random.permutation(len(inputs)).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), 16 * recipe.batch_size):
            part = order[start : start + 16 * recipe.batch_size]
            part.sort(key=lambda i: len(inputs[i].get("input_ids", ())))
            ends = range(0, len(part), recipe.batch_size)
            batches += [part[i : i + recipe.batch_size] for i in ends]
        yield from (batches[i] for i in random.permutation(len(batches)))


@contextmanager
def _fast_products() -> Iterator[None]:
    """Lets a CPU with bf16 units multiply fp32 matrices on them; others go on as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _ramp(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate: up over the first steps, then linearly down to zero."""
    rise = max(1, round(steps * warmup))
    return lambda step: min((step + 1) / rise, (steps - step) / (steps - rise + 1))


def _digest(base: Path, table: pd.DataFrame, recipe: Recipe, shuffled: bool) -> str:
    content = hashlib.sha256(json.dumps([dataclasses.asdict(recipe), shuffled]).encode())
    content.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    for file in sorted(base.iterdir()):
        content.update(file.name.encode())
        content.update(file.read_bytes())
    return content.hexdigest()[:16]
