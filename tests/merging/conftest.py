"""Experts of tiny models, made once for all tests; what only needs numpy does not wait for torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from merging.experts.expert import Expert
    from merging.models.coefficients import Coefficients
    from merging.vectors.expert_set import ExpertSet


@pytest.fixture(scope="session")
def text_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertModel

    from tests.merging.tiny import WORDS, bert_config
    from tests.tiny_tokenizer import write_tokenizer

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("text") / "base"
    BertModel(bert_config()).save_pretrained(directory)
    write_tokenizer(directory, WORDS)
    return directory


@pytest.fixture(scope="session")
def text_expert_directories(text_base: Path) -> tuple[Path, ...]:
    from tests.merging.tiny import write_text_expert

    root = text_base.parent
    return tuple(write_text_expert(text_base, root / f"expert-{i}", i) for i in range(3))


@pytest.fixture(scope="session")
def text_experts(text_expert_directories: tuple[Path, ...]) -> tuple[Expert, ...]:
    from merging.experts.expert import open_expert
    from merging.kinds import ModelKind

    return tuple(
        open_expert(f"task-{i}", directory, ModelKind.TEXT_CLASSIFIER)
        for i, directory in enumerate(text_expert_directories)
    )


@pytest.fixture(scope="session")
def text_set(text_base: Path, text_experts: tuple[Expert, ...]) -> ExpertSet:
    from merging.kinds import ModelKind
    from merging.vectors.expert_set import ExpertSet

    return ExpertSet.open(text_base, text_experts, ModelKind.TEXT_CLASSIFIER)


@pytest.fixture(scope="session")
def merge_experts() -> Callable[..., Coefficients]:
    """Materialises experts with the same coefficient everywhere."""
    from merging.models.coefficients import Coefficients
    from merging.models.materialise import materialise

    def merge(experts: ExpertSet, out: Path, value: float) -> Coefficients:
        coefficients = Coefficients.constant(experts.tasks, experts.names, value)
        materialise(experts, coefficients, experts.heads, out)
        return coefficients

    return merge
