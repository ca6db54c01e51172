"""How an expert's folder may look, and what is refused before anything is downloaded."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.names import check_relative_path
from infra.storage.cache import sha256_tree
from infra.storage.layout import (
    find_checkpoint,
    find_layout,
    is_wanted,
    left_aside,
    tree_digests,
    wanted_files,
)
from merging.errors import InvalidInput
from merging.experts.table_names import TABLES

MODEL = ["config.json", "model.safetensors"]
EXPERT = [*MODEL, "examples.parquet"]


def at(folder: str, files: list[str] = MODEL) -> list[str]:
    return [f"{folder}/{file}" for file in files]


@pytest.mark.parametrize(
    ("paths", "checkpoint", "table"),
    [
        (EXPERT, ".", "examples.parquet"),
        (
            ["MLmodel", "model/config.json", "model/a.safetensors", "data/examples.jsonl"],
            "model",
            "data/examples.jsonl",
        ),
        (
            ["adapter_config.json", "adapter_model.safetensors", "README.md", "examples.jsonl"],
            ".",
            "examples.jsonl",
        ),
        (
            [*EXPERT, *at("checkpoint-500"), *at("checkpoint-1000"), "training_args.bin"],
            ".",
            "examples.parquet",
        ),
        ([*at("final"), *at("out/checkpoint-1"), "examples.csv"], "final", "examples.csv"),
        ([*at("checkpoint-500", EXPERT)], "checkpoint-500", "checkpoint-500/examples.parquet"),
        (
            [*EXPERT, "pytorch_model.bin", *at(".ipynb_checkpoints"), *at("__MACOSX", EXPERT)],
            ".",
            "examples.parquet",
        ),
        ([*EXPERT, ".cache/examples.jsonl", *at(".git", EXPERT)], ".", "examples.parquet"),
    ],
)
def test_checkpoint_and_table_are_found(paths, checkpoint, table):
    found = find_layout(paths, "here")
    assert (found.checkpoint, found.examples) == (PurePosixPath(checkpoint), PurePosixPath(table))


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_found_in_every_format(table):
    assert find_layout([*MODEL, table], "here").examples == PurePosixPath(table)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["config.json", "pytorch_model.bin", "examples.jsonl"], "only pickles"),
        (["config.json", "examples.jsonl"], "exactly one folder"),
        (MODEL, "expected an examples table named .* found none.*--examples"),
        ([*EXPERT, "examples.csv"], "found examples.csv, examples.parquet"),
        ([*at("a"), *at("b"), "examples.jsonl"], "found a, b"),
        (
            [*at("checkpoint-5"), *at("checkpoint-10"), "examples.jsonl"],
            "found checkpoint-10, checkpoint-5.*--examples",
        ),
        ([], "found none"),
    ],
)
def test_what_is_no_single_expert_is_refused_with_what_was_found(paths, message):
    with pytest.raises(InvalidInput, match=message):
        find_layout(paths, "here")


def test_a_checkpoint_of_trainer_alone_is_found_without_its_table():
    assert (
        find_checkpoint([*MODEL, "optimizer.pt", "trainer_state.json"], "here") == PurePosixPath()
    )


@pytest.mark.parametrize(
    "name",
    [
        *("source.spm", "bpe.codes", "qwen.tiktoken", "chat_template.jinja", "merges.txt", "vocab"),
        *("sentencepiece.bpe.model", "dict.vocab", "tokenizer.model.v3", "special.tsv"),
        *("cat (1).jpg", "IMG+1.png", "#3.png", "100%?.png", "a&b.JPG", "x@2x.gif", "scan.tif"),
        *(
            "grün.png",
            unicodedata.normalize("NFD", "grün.png"),
            "猫.webp",
            "👨‍👩‍👧.png",
            "at\u202f1 PM.png",
        ),
        "images/n01/a b/c.png",
    ],
)
def test_a_file_of_any_plain_name_is_taken_at_both_doors(name):
    assert wanted_files([name], "here") == [name]
    assert check_relative_path(name, "here") == name


@pytest.mark.parametrize(
    "name",
    [
        *("a.bin", "a.pt", "a.pth", "a.pkl", "checkpoint.ckpt", "a.py", "a.ipynb"),
        *("tf_model.h5", "flax_model.msgpack", "model.onnx", "__0_0.distcp"),
        *(".DS_Store", "images/Thumbs.db", "__MACOSX/a.json", ".ipynb_checkpoints/a.json"),
        *("runs/Nov26/events.out.tfevents.17.host.1.0", "__pycache__/a.json", "a/.git/config.json"),
    ],
)
def test_pickles_code_logs_and_hidden_files_are_never_taken(name):
    assert not is_wanted(name)


BAD = [
    "../a",
    "/a",
    "a//b",
    "a/../b",
    ".hidden",
    "a/.b",
    "",
    "a\\b",
    "a\nb",
    "a\x00",
    "\u2028",
    "\ud800",
]


@pytest.mark.parametrize("path", [*BAD, "ü" * 128, "/".join(["long"] * 200)])
def test_a_path_that_leaves_its_folder_or_cannot_be_stored_is_refused(path):
    with pytest.raises(InvalidInput, match="plain file names"):
        check_relative_path(path, "here")


@given(st.lists(st.text(max_size=12), max_size=4))
def test_what_upload_takes_pull_takes(paths):
    try:
        taken = wanted_files(paths, "here")
    except InvalidInput:
        return
    assert wanted_files(taken, "there") == taken
    assert all(check_relative_path(path, "there") == path for path in taken)
    assert not any(".." in PurePosixPath(path).parts for path in taken)


def test_what_is_left_aside_is_named_by_file_or_whole_folder():
    paths = [
        *EXPERT,
        *at("checkpoint-500", [*MODEL, "optimizer.pt"]),
        "runs/Nov26/events.out.tfevents.1",
        "training_args.bin",
        ".git/config.json",
        "images/a.png",
        "images/a.npy",
    ]
    assert left_aside(paths, "here") == (
        "Left aside, since a merge does not read it: checkpoint-500/, images/a.npy, runs/, "
        "training_args.bin.",
    )
    assert left_aside(EXPERT, "here") == ()
    (many,) = left_aside([*EXPERT, *(f"{i}.pt" for i in range(100))], "here")
    assert many.endswith("17.pt and 90 more.")


def test_a_folder_is_also_known_by_what_earlier_versions_read_of_it():
    read_then = dict.fromkeys(EXPERT, "a" * 64)
    now, before = tree_digests({**read_then, "README.md": "b" * 64})
    assert before == sha256_tree(read_then)
    assert now != before
