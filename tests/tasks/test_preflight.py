"""Whatever an expert's folder holds, it is opened or refused in words: it never breaks the flow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from infra.families import Family
from merging.errors import InvalidInput
from tasks.inspection import Finding
from tasks.preflight import IncompatibleExpert, open_checked
from tasks.values import Base

FAMILY = Family(name="f", kind="text-classifier", base="s3://bucket/base", bucket="bucket")


@pytest.fixture
def folder(expert: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(expert("weather"), tmp_path / "expert"))


def look(base: Path, folder: Path):
    return open_checked(FAMILY, Base(base, "digest"), "weather", folder, "f-weather/1")


def change_weights(folder: Path, change: Callable[[dict], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_table(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = folder / "examples.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def first(weights: dict) -> str:
    return next(name for name in sorted(weights) if name.endswith("query.weight"))


SPOILT = {
    "weights cut off": lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:-1000]
    ),
    "weights are text": lambda f: (f / "model.safetensors").write_text("not weights"),
    "weights are empty": lambda f: (f / "model.safetensors").write_bytes(b""),
    "a weight is not finite": lambda f: change_weights(
        f, lambda w: w[first(w)].fill_(float("nan"))
    ),
    "a weight is missing": lambda f: change_weights(f, lambda w: w.pop(first(w))),
    "a weight has another shape": lambda f: change_weights(
        f, lambda w: w.update({first(w): torch.zeros(3, 3)})
    ),
    "a weight too many": lambda f: change_weights(
        f, lambda w: w.update({"bert.encoder.layer.9.output.dense.weight": torch.zeros(3)})
    ),
    "config is no JSON": lambda f: (f / "config.json").write_text("{"),
    "config is a list": lambda f: (f / "config.json").write_text("[]"),
    "another architecture": lambda f: change_config(f, model_type="roberta"),
    "an unknown architecture": lambda f: change_config(f, model_type="made-up"),
    "other sizes": lambda f: change_config(f, hidden_size=4096),
    "labels that do not fit the head": lambda f: change_config(
        f, id2label={str(i): f"l{i}" for i in range(7)}, label2id={f"l{i}": i for i in range(7)}
    ),
    "labels that are no object": lambda f: change_config(f, id2label="side-0"),
    "the table is no table": lambda f: (f / "examples.parquet").write_text("text,label"),
    "the table is empty": lambda f: change_table(f, lambda t: t.iloc[:0]),
    "the table lacks a column": lambda f: change_table(f, lambda t: t.drop(columns="label")),
    "labels nobody knows": lambda f: change_table(f, lambda t: t.assign(label="storm")),
    "texts are missing": lambda f: change_table(f, lambda t: t.assign(text=None)),
    "texts are numbers": lambda f: change_table(f, lambda t: t.assign(text=1.5)),
    "too few rows": lambda f: change_table(f, lambda t: t.head(20)),
    "a split nobody knows": lambda f: change_table(f, lambda t: t.assign(split="train")),
    "nothing to decide on": lambda f: change_table(f, lambda t: t.assign(split="calibration")),
}


def test_a_good_expert_is_opened(base, folder):
    checked = look(base, folder)
    assert checked.expert.task == "weather"
    assert checked.contract.passed
    assert checked.remarks == ()


def test_what_is_worth_knowing_of_an_expert_that_fits_is_said(base, folder):
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    names = {index: f"LABEL_{index}" for index in labels}
    change_config(folder, id2label=names, label2id={v: int(k) for k, v in names.items()})
    renamed = {label: names[index] for index, label in labels.items()}
    change_table(folder, lambda t: t.assign(label=t["label"].replace(renamed)))

    assert "set id2label in its config.json" in " ".join(look(base, folder).remarks)


def test_an_adapter_is_opened_as_peft_saves_it(base, folder, tmp_path):
    """An adapter with a name of its own lies in a folder of that name, without config.json."""
    labels = json.loads((folder / "config.json").read_text())["label2id"]
    model = BertForSequenceClassification.from_pretrained(base, num_labels=len(labels))
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False)
    get_peft_model(model, lora, adapter_name="mine").save_pretrained(tmp_path / "adapter")
    table = pd.read_parquet(folder / "examples.parquet")
    table.assign(label=table["label"].map(labels)).to_parquet(tmp_path / "adapter/examples.parquet")

    checked = look(base, tmp_path / "adapter")

    assert checked.contract.passed
    assert len(checked.expert.head.labels) == len(labels)
    assert f"trained on {str(base)!r}" in " ".join(checked.remarks)

    table.to_parquet(tmp_path / "adapter/examples.parquet")
    with pytest.raises(InvalidInput, match=r"model\.config\.save_pretrained\(folder\)"):
        look(base, tmp_path / "adapter")


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_expert_is_refused_in_words(base, folder, how):
    SPOILT[how](folder)

    with pytest.raises((InvalidInput, IncompatibleExpert)) as error:
        look(base, folder)

    assert len(str(error.value)) > 40


def test_the_base_itself_is_no_expert(base, folder):
    backbone = load_file(base / "model.safetensors")

    def undo(weights: dict) -> None:
        weights.update({f"bert.{name}": tensor for name, tensor in backbone.items()})

    change_weights(folder, undo)
    with pytest.raises(IncompatibleExpert, match="apart from its head, it is the base"):
        look(base, folder)


def test_every_check_is_told_also_after_one_that_refused(base, folder):
    change_config(folder, hidden_act="relu")
    change_table(folder, lambda t: t.head(20))
    told: list[Finding] = []

    with pytest.raises(IncompatibleExpert, match="hidden_act"):
        open_checked(FAMILY, Base(base, "digest"), "weather", folder, "f-weather/1", told.append)

    verdicts = {finding.check: finding.verdict for finding in told}
    assert verdicts == {
        "files": "ok",
        "configuration": "refused",
        "class": "ok",
        "tensors": "ok",
        "examples": "refused",
    }
