"""Experts of tiny models, made once for all tests."""

from __future__ import annotations

import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertModel

from merging.experts.expert import Expert, open_expert
from merging.kinds import ModelKind
from merging.models.coefficients import Coefficients
from merging.models.materialise import materialise
from merging.vectors.expert_set import ExpertSet
from tests.merging.tiny import WORDS, bert_config, write_text_expert
from tests.tiny_tokenizer import write_tokenizer

torch.set_num_threads(1)  # tiny tensors, and a machine that runs other things too


@pytest.fixture(scope="session")
def text_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("text") / "base"
    BertModel(bert_config()).save_pretrained(directory)
    write_tokenizer(directory, WORDS)
    return directory


@pytest.fixture(scope="session")
def text_expert_directories(text_base: Path) -> tuple[Path, ...]:
    root = text_base.parent
    return tuple(write_text_expert(text_base, root / f"expert-{i}", i) for i in range(3))


@pytest.fixture(scope="session")
def text_experts(text_expert_directories: tuple[Path, ...]) -> tuple[Expert, ...]:
    return tuple(
        open_expert(f"task-{i}", directory, ModelKind.TEXT_CLASSIFIER)
        for i, directory in enumerate(text_expert_directories)
    )


@pytest.fixture(scope="session")
def text_set(text_base: Path, text_experts: tuple[Expert, ...]) -> ExpertSet:
    return ExpertSet.open(text_base, text_experts, ModelKind.TEXT_CLASSIFIER)


@pytest.fixture(scope="session")
def merge_experts() -> Callable[..., Coefficients]:
    """Materialises experts with the same coefficient everywhere."""

    def merge(experts: ExpertSet, out: Path, value: float) -> Coefficients:
        coefficients = Coefficients.constant(experts.tasks, experts.names, value)
        materialise(experts, coefficients, experts.heads, out)
        return coefficients

    return merge


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A private copy of a directory that a test may spoil."""

    def copy(directory: Path) -> Path:
        target = tmp_path / f"copy-{directory.name}"
        shutil.copytree(directory, target)
        return target

    return copy
