"""A killed run that goes on ends with the same bits, whatever the model reads and whenever it died."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    DebertaV2Config,
    PreTrainedConfig,
    T5Config,
)

from merging.experts.expert import open_expert
from merging.kinds import ModelKind
from merging.learning.learn import Learned, learn_coefficients
from merging.learning.state import StepRecord
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet
from tests.merging.tiny import WORDS, first, moved, save_expert, text_table
from tests.tiny_tokenizer import SPECIAL, write_tokenizer

CPU = torch.device("cpu")
FAST = MergeSettings(
    steps=10,
    row_share=0.4,
    batch_size=4,
    evaluate_every=2,
    calibration_size=24,
    learning_rate=0.05,
)
SHORT = MergeSettings(
    steps=4,
    row_share=0.5,
    batch_size=2,
    evaluate_every=1,
    calibration_size=12,
    holdout=0,
    tune_heads=True,
)
SIZES = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
DISTANCES = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}


class Killed(Exception):
    pass


def deberta_v2() -> PreTrainedConfig:
    """Every layer reads the whole embedding of distances, which no layer looks up."""
    return DebertaV2Config(**SIZES, **DISTANCES, position_buckets=8, norm_rel_ebd="layer_norm")


def t5() -> PreTrainedConfig:
    """Distances are looked up, and one embedding is that of the encoder and of the decoder."""
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    tokens = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
    return T5Config(**sizes, **tokens, vocab_size=SIZES["vocab_size"])


@pytest.fixture(scope="module", params=[deberta_v2, t5])
def experts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExpertSet:
    folder = tmp_path_factory.mktemp(request.param.__name__)
    torch.manual_seed(0)
    base = AutoModel.from_config(request.param())
    base.save_pretrained(folder / "base")
    write_tokenizer(folder / "base", WORDS)
    opened = []
    for seed in range(2):
        labels = {i: f"class-{i}" for i in range(3)}
        model = AutoModelForSequenceClassification.from_pretrained(
            folder / "base", id2label=labels, label2id={v: k for k, v in labels.items()}
        )
        save_expert(moved(model, seed), folder / f"expert-{seed}", text_table(seed, 30))
        opened.append(
            open_expert(f"task-{seed}", folder / f"expert-{seed}", ModelKind.TEXT_CLASSIFIER)
        )
    return ExpertSet.open(folder / "base", opened, ModelKind.TEXT_CLASSIFIER)


def learn(
    experts: ExpertSet, settings: MergeSettings, work: Path, killed_at: int | None = None
) -> tuple[Learned | None, list[int]]:
    """What was learned, None where the run was killed, and the steps that were gone."""
    steps: list[int] = []

    def progress(record: StepRecord) -> None:
        steps.append(record.step)
        if record.step == killed_at:
            raise Killed

    try:
        found = learn_coefficients(experts, settings, work=work, device=CPU, progress=progress)
    except Killed:
        return None, steps
    return found, steps


def assert_the_same(ours: Learned | None, theirs: Learned | None) -> None:
    assert ours is not None
    assert theirs is not None
    assert ours.coefficients.digest == theirs.coefficients.digest
    assert ours.history == theirs.history
    assert {t: h.digest for t, h in ours.heads.items()} == {
        t: h.digest for t, h in theirs.heads.items()
    }


def test_a_run_killed_after_every_step_ends_bitwise_the_same(
    experts: ExpertSet, tmp_path: Path
) -> None:
    whole, _ = learn(experts, SHORT, tmp_path / "whole")
    for step in range(1, SHORT.steps + 1):
        _, steps = learn(experts, SHORT, tmp_path / "killed", killed_at=step)
        assert steps == list(range(step - 1 if step > 2 else 0, step + 1))
    resumed, _ = learn(experts, SHORT, tmp_path / "killed")
    assert_the_same(resumed, whole)


@pytest.mark.parametrize("killed_at", [5, 9])  # while tensors learn, and while rows do
def test_a_killed_run_goes_on_from_what_was_saved(
    text_set: ExpertSet, tmp_path: Path, killed_at: int
) -> None:
    settings = FAST.model_copy(update={"tune_heads": True})
    whole, _ = learn(text_set, settings, tmp_path / "a")
    learn(text_set, settings, tmp_path / "b", killed_at)
    resumed, steps = learn(text_set, settings, tmp_path / "b")
    assert steps == list(range(killed_at, 11))
    assert_the_same(resumed, whole)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_run_that_was_killed_on_other_threads_begins_anew(
    text_set: ExpertSet, tmp_path: Path, threads: Callable[[int], None]
) -> None:
    experts, settings = first(text_set, 1), SHORT.model_copy(update={"steps": 2})
    threads(1)
    learn(experts, settings, tmp_path / "b", killed_at=2)
    threads(2)
    whole, _ = learn(experts, settings, tmp_path / "a")
    resumed, steps = learn(experts, settings, tmp_path / "b")
    assert steps == [0, 1, 2]
    assert_the_same(resumed, whole)
    threads(1)  # What was saved on one thread is still there.
    _, steps = learn(experts, settings, tmp_path / "b")
    assert steps == [2]
