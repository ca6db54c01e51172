"""A merged model's folder as one thing that answers `{"task": ..., "inputs": [...]}`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .answers import class_scores, generate
from .encoder import Encoder, read_processor
from .loading import TaskError, assemble, label_names, read_generation, read_weights

MANIFEST = "manifest.json"


class MergedModel:
    """A merged model directory: one backbone in memory, a head per task."""

    def __init__(self, directory: Path, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        manifest = verify_manifest(directory)
        kind = str(manifest["kind"])
        backbone = read_weights(directory / "model")
        self.models: dict[str, Any] = {}
        for folder in sorted(p for p in (directory / "heads").iterdir() if p.is_dir()):
            config = json.loads((folder / "config.json").read_text())
            tensors = {**backbone, **read_weights(folder)}
            self.models[folder.name] = assemble(config, kind, tensors, read_generation(folder))
        _move_together(list(self.models.values()), self.device)
        processor = read_processor(directory / "model", kind)
        self.encoders = {
            task: Encoder(directory / "model", kind, model, processor)
            for task, model in self.models.items()
        }

    def answer(self, task: str, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """One answer per input: label and scores, or text.

        Raises:
            TaskError: No such task, or inputs of the wrong type.
        """
        if task not in self.models:
            raise TaskError(f"Unknown task {task!r}. This model answers: {', '.join(self.models)}.")
        model, encoder = self.models[task], self.encoders[task]
        values = list(inputs) if encoder.reads_images else [_text(value) for value in inputs]
        if encoder.writes_text:
            texts = generate(model, encoder, values, self.device)
            return [{"task": task, "text": text} for text in texts]
        labels = label_names(model.config.to_dict())
        rows = class_scores(model, encoder, values, self.device).softmax(-1).tolist()
        return [
            {
                "task": task,
                "label": labels[int(np.argmax(row))],
                "score": max(row),
                "scores": dict(zip(labels, row, strict=True)),
            }
            for row in rows
        ]

    def predict(self, model_input: Any, params: Any = None) -> list[dict[str, Any]]:  # noqa: ARG002
        """Answers a request as MLflow hands it over.

        Args:
            model_input: `{"task": name, "inputs": [...]}`, or a DataFrame with the columns `task`
                and `inputs` (or `text`, with `text_pair` if wanted), one row per input.
            params: Not used; MLflow passes it.

        Raises:
            TaskError: The request has another form, an unknown task or a wrong input.
        """
        requests = list(_requests(model_input))
        if wrong := [task for task, _ in requests if not isinstance(task, str)]:
            raise TaskError(f"Expected the name of a task, found {wrong[0]!r:.100}.")
        answers: list[dict[str, Any]] = [{}] * len(requests)
        for task in dict.fromkeys(task for task, _ in requests):
            places = [i for i, (name, _) in enumerate(requests) if name == task]
            for place, answer in zip(
                places, self.answer(task, [requests[i][1] for i in places]), strict=True
            ):
                answers[place] = answer
        return answers


def _text(value: Any) -> str | tuple[str, ...]:
    """A text, or a pair of texts as a tuple, from any form in which a request may have it."""
    if isinstance(value, Mapping):
        value = (value.get("text"), value.get("text_pair"))
    if isinstance(value, list | tuple | np.ndarray):
        texts = tuple(text for text in value if text is not None)
        value = texts[0] if len(texts) == 1 else texts
    parts = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
        raise TaskError(f"Expected a text or a pair of texts as input, found {value!r:.100}.")
    for part in parts:
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise TaskError(
                f"Expected text in Unicode as input, found half of a character (a lone surrogate) at "
                f"place {error.start} of {part!r:.100}. Decode the text with errors='replace'."
            ) from error
    return value


def _move_together(models: Sequence[Any], device: torch.device) -> None:
    """Moves models to a device; what they share is moved once, and shared there as well."""
    moved: dict[tuple[int, torch.Size], tuple[Tensor, Tensor]] = {}

    def move(tensor: Tensor) -> Tensor:
        key = (tensor.data_ptr(), tensor.shape)
        if key not in moved:
            moved[key] = (tensor, tensor.to(device))  # the first is kept, so that its address is
        return moved[key][1]

    for model in models:
        model._apply(move)  # noqa: SLF001 - what .to() does, with a memory


def verify_manifest(directory: Path) -> dict[str, Any]:
    """The manifest, after every file it lists was found to have the recorded SHA-256.

    Raises:
        TaskError: No manifest, a missing or changed file, or one that the manifest does not list.
    """
    path = Path(directory) / MANIFEST
    if not path.is_file():
        raise TaskError(f"{path} is missing: this is not a whole merged model. Pull it again.")
    manifest: dict[str, Any] = json.loads(path.read_text())
    files: dict[str, str] = manifest["files"]
    for name, expected in files.items():
        if _sha256(Path(directory) / name) != expected:
            raise TaskError(
                f"{name}: expected SHA-256 {expected}, found another. The file was changed "
                "after the model was built; it will not be loaded. Restore it or roll back."
            )
    for folder in ("model", "heads"):
        for found in (Path(directory) / folder).rglob("*"):
            name = found.relative_to(directory).as_posix()
            if found.is_file() and name not in files:
                raise TaskError(f"{name} is not in the manifest; the model will not be loaded.")
    return manifest


def _sha256(path: Path) -> str:
    if not path.is_file():
        return "(missing)"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _requests(model_input: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(model_input, pd.DataFrame):
        yield from _rows(model_input)
        return
    if not isinstance(model_input, Mapping) or not {"task", "inputs"} <= set(model_input):
        raise TaskError('Expected {"task": name, "inputs": [...]}.')
    tasks, inputs = model_input["task"], model_input["inputs"]
    tasks = [tasks] if isinstance(tasks, str) else tasks
    inputs = [inputs] if isinstance(inputs, str | bytes) else inputs
    for name, values in (("task", tasks), ("inputs", inputs)):
        if not isinstance(values, list | tuple | np.ndarray):
            raise TaskError(f"Expected a list as {name}, found {values!r:.100}.")
    tasks = list(tasks)
    if len(tasks) not in (1, len(inputs)):
        raise TaskError(f"Expected one task or one per input, found {len(tasks)}.")
    yield from zip(tasks * len(inputs) if len(tasks) == 1 else tasks, inputs, strict=True)


def _rows(table: pd.DataFrame) -> Iterable[tuple[str, Any]]:
    column = "inputs" if "inputs" in table.columns else "text"
    if not {"task", column} <= set(table.columns):
        raise TaskError(f"Expected columns task and inputs (or text), found {list(table.columns)}.")
    seconds = table["text_pair"] if "text_pair" in table.columns else [None] * len(table)
    for task, value, second in zip(table["task"], table[column], seconds, strict=True):
        many = isinstance(value, list | np.ndarray) and column == "inputs"
        for one in value if many else [value]:
            yield task, (one, second) if isinstance(second, str) else one


def _load_pyfunc(path: str) -> MergedModel:
    """What MLflow calls with the model's directory."""
    return MergedModel(Path(path))
