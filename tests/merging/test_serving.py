from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch

from merging import serving
from merging.experts.expert import Expert
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.models.evaluate import evaluate
from merging.serving import MergedModel, TaskError, _load_pyfunc
from merging.serving.model import _move_together
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet


@pytest.fixture(scope="session")
def served(
    text_set: ExpertSet,
    merge_experts: Callable[..., object],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("served") / "model"
    merge_experts(text_set, out, 0.4)
    write_manifest(out, text_set.kind)
    return out


def write_manifest(directory: Path, kind: str) -> None:
    files = {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }
    (directory / "manifest.json").write_text(json.dumps({"kind": kind, "files": files}))


def test_answers_agree_with_evaluation(served: Path, text_experts: tuple[Expert, ...]) -> None:
    model = _load_pyfunc(str(served))
    gate = text_experts[1].split.gate
    answers = model.predict({"task": "task-1", "inputs": list(gate.inputs)})
    head = Head.load(served / "heads/task-1", "task-1")
    backbone = Backbone.open(served / "model", ModelKind.TEXT_CLASSIFIER)
    outcomes = evaluate(backbone, head, gate, torch.device("cpu"))
    assert [a["label"] for a in answers] == [gate.labels[i] for i in outcomes.predicted]
    assert sum(answers[0]["scores"].values()) == pytest.approx(1)


def test_the_package_that_travels_with_a_model_needs_nothing_of_this_project() -> None:
    files = {file.stem: file for file in Path(serving.__file__).parent.iterdir() if file.is_file()}
    for file in files.values():
        nodes = list(ast.walk(ast.parse(file.read_text())))
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        assert {node.module for node in froms if node.level} <= set(files)
        imported = {node.module for node in froms if not node.level}
        imported |= {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
        assert {name.split(".")[0] for name in imported}.isdisjoint({"merging", "infra"})


def test_one_backbone_is_in_memory_for_all_tasks(served: Path) -> None:
    model = MergedModel(served, torch.device("cpu"))
    backbones = [task_model.bert.state_dict() for task_model in model.models.values()]
    for name, tensor in backbones[0].items():
        assert {backbone[name].data_ptr() for backbone in backbones} == {tensor.data_ptr()}


def test_only_short_texts_come_together_in_large_batches(served: Path) -> None:
    encoder = MergedModel(served, torch.device("cpu")).encoders["task-0"]
    lengths = [1] * 300 + [100] * 200 + [600] * 50
    rows = [{"input_ids": [5] * n, "attention_mask": [1] * n} for n in lengths]
    batches = list(encoder.batches(rows, 256))
    assert [index for indices, _ in batches for index in indices] == list(range(550))
    assert [len(indices) for indices, _ in batches] == [256, 163, 81, 32, 18]
    assert all(len(indices) <= 32 for indices, _ in encoder.batches(rows))


def test_what_models_share_is_moved_once() -> None:
    shared = torch.nn.Linear(2, 3)
    models = [torch.nn.Sequential(shared, torch.nn.Linear(3, n)) for n in (4, 5)]
    models[1][0] = torch.nn.Linear(2, 3)
    models[1][0].weight = torch.nn.Parameter(shared.weight.detach())  # the same memory
    moved: list[torch.Tensor] = []
    to = torch.Tensor.to

    def noted(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(tensor)
        return to(tensor, device, copy=True)

    with patch.object(torch.Tensor, "to", noted):
        _move_together(models, torch.device("cpu"))
    assert models[0][0].weight.data_ptr() == models[1][0].weight.data_ptr()
    assert len(moved) == 7  # of eight parameters one is shared


def test_a_table_of_several_tasks_is_answered_in_order(served: Path) -> None:
    model = _load_pyfunc(str(served))
    table = pd.DataFrame({"task": ["task-2", "task-0", "task-2"], "text": ["ba de", "fi", "go"]})
    answers = model.predict(table)
    assert [a["task"] for a in answers] == ["task-2", "task-0", "task-2"]
    assert answers[1] == model.predict({"task": "task-0", "inputs": ["fi"]})[0]


def test_an_unknown_task_is_answered_with_the_tasks(served: Path) -> None:
    with pytest.raises(TaskError, match="task-0, task-1, task-2"):
        _load_pyfunc(str(served)).predict({"task": "nothing", "inputs": ["ba"]})


@pytest.mark.parametrize("change", ["weights", "extra", "no manifest"])
def test_a_changed_model_is_not_loaded(served: Path, tmp_path: Path, change: str) -> None:
    import shutil

    spoiled = tmp_path / "spoiled"
    shutil.copytree(served, spoiled)
    if change == "weights":
        (spoiled / "heads/task-0/head.safetensors").write_bytes(b"other")
    elif change == "extra":
        (spoiled / "model/model-00002.safetensors").write_bytes(b"more")
    else:
        (spoiled / "manifest.json").unlink()
    with pytest.raises(TaskError):
        _load_pyfunc(str(spoiled))


def test_a_request_may_mix_single_texts_and_pairs(served: Path) -> None:
    model = _load_pyfunc(str(served))
    forms = ["ba de", ["fi", "go"], {"text": "ba de"}, ["ba de", None], ("ba", ""), "fi"]
    mixed = model.predict({"task": "task-1", "inputs": forms})
    for form, answer in zip(forms, mixed, strict=True):
        (alone,) = model.predict({"task": "task-1", "inputs": [form]})
        assert answer["scores"] == pytest.approx(alone["scores"], abs=1e-5)
    assert mixed[0] == mixed[2] == mixed[3]
    assert mixed[1]["scores"] != pytest.approx(mixed[5]["scores"], abs=1e-5)


def test_an_empty_text_is_answered(served: Path) -> None:
    (answer,) = _load_pyfunc(str(served)).predict({"task": "task-1", "inputs": [""]})
    assert sum(answer["scores"].values()) == pytest.approx(1)
    assert _load_pyfunc(str(served)).predict({"task": "task-1", "inputs": []}) == []


@pytest.mark.parametrize(
    "request_",
    [
        *({"task": "task-1", "inputs": [value]} for value in (None, 3, [], ["a", "b", "c"], {})),
        *({"task": "task-1", "inputs": value} for value in (None, 3, {"text": "a"})),
        *({"task": value, "inputs": ["ba"]} for value in (None, 3, {}, [["task-1"]], [None])),
        *({"task": ["task-1", "task-0"], "inputs": ["ba"]}, {"inputs": ["ba"]}, "ba", None),
        {"task": "task-1", "inputs": ["ba \ud800 de"]},
        {"task": "task-1", "inputs": [("ba", "\udfff")]},
        pd.DataFrame({"text": ["ba"]}),
        pd.DataFrame({"task": ["task-1"], "text": [None]}),
    ],
    ids=repr,
)
def test_a_request_that_cannot_be_read_is_told_why(served: Path, request_: object) -> None:
    with pytest.raises(TaskError, match=r"^(Expected|Unknown) .{10}"):
        _load_pyfunc(str(served)).predict(request_)
