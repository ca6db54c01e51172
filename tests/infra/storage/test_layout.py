"""How an expert's folder may look, and what is refused before anything is downloaded."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from infra.names import check_relative_path
from infra.storage.layout import find_layout, is_wanted
from merging.errors import InvalidInput


@pytest.mark.parametrize(
    ("paths", "checkpoint", "table"),
    [
        (["config.json", "model.safetensors", "examples.parquet"], ".", "examples.parquet"),
        (
            ["MLmodel", "model/config.json", "model/a.safetensors", "data/examples.jsonl"],
            "model",
            "data/examples.jsonl",
        ),
        (
            ["config.json", "adapter_config.json", "adapter_model.safetensors", "examples.jsonl"],
            ".",
            "examples.jsonl",
        ),
    ],
)
def test_checkpoint_and_table_are_found(paths, checkpoint, table):
    found = find_layout(paths, "here")
    assert (found.checkpoint, found.examples) == (PurePosixPath(checkpoint), PurePosixPath(table))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["config.json", "pytorch_model.bin", "examples.jsonl"], "only pickles"),
        (["config.json", "examples.jsonl"], "exactly one folder"),
        (["config.json", "model.safetensors"], "exactly one examples table"),
        (
            [
                "a/config.json",
                "a/x.safetensors",
                "b/config.json",
                "b/x.safetensors",
                "examples.jsonl",
            ],
            "found a, b",
        ),
        ([], "found none"),
    ],
)
def test_what_is_no_single_expert_is_refused_with_what_was_found(paths, message):
    with pytest.raises(InvalidInput, match=message):
        find_layout(paths, "here")


@pytest.mark.parametrize(
    "name", ["source.spm", "bpe.codes", "qwen.tiktoken", "chat_template.jinja"]
)
def test_vocabularies_are_wanted_whatever_they_are_called(name):
    assert is_wanted(name)


def test_pickles_and_code_are_never_pulled():
    wanted = [
        p for p in ("a.bin", "a.pt", "a.pkl", "a.py", "MLmodel", "a.safetensors") if is_wanted(p)
    ]
    assert wanted == ["a.safetensors"]


@pytest.mark.parametrize("path", ["../a", "/a", "a//b", "a/../b", ".hidden", "a/.b", "", "a\\b"])
def test_a_path_that_leaves_its_folder_is_refused(path):
    with pytest.raises(InvalidInput, match="plain file names"):
        check_relative_path(path, "here")
