"""What a merged model is written in, what that loses, and that the same bytes come out on any threads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertModel,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTImageProcessorPil,
)

from merging.errors import NonFinite
from merging.experts.checkpoint import Checkpoint, digest_directory
from merging.experts.expert import Expert, open_expert
from merging.gate.artifact import check_weights
from merging.kinds import ModelKind
from merging.learning.plan import Memory, make_plan
from merging.models.coefficients import Coefficients
from merging.models.evaluate import evaluate
from merging.models.folder import MergedFolder
from merging.models.materialise import materialise, verify
from merging.models.precision import Precision
from merging.settings import MergeSettings, WriteDtype
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet
from tests.merging.tiny import (
    WORDS,
    bert_config,
    first,
    image_table,
    moved,
    save_expert,
    write_text_expert,
)
from tests.tiny_tokenizer import write_tokenizer

KIND = ModelKind.TEXT_CLASSIFIER
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def coarse_set(
    text_base: Path, text_experts: tuple[Expert, ...], tmp_path_factory: pytest.TempPathFactory
) -> ExpertSet:
    """Experts of fp32 on a base of bf16."""
    base = tmp_path_factory.mktemp("coarse") / "base"
    shutil.copytree(text_base, base)
    BertModel.from_pretrained(text_base, dtype=torch.bfloat16).save_pretrained(base)
    return ExpertSet.open(base, text_experts, KIND)


def write(
    experts: ExpertSet, out: Path, write_dtype: WriteDtype, value: float = 0.3
) -> MergedFolder:
    coefficients = Coefficients.constant(experts.tasks, experts.names, value)
    return materialise(experts, coefficients, experts.heads, out, write_dtype)


def verdict(experts: ExpertSet, merged: MergedFolder, write_dtype: WriteDtype) -> str:
    checks = check_weights(experts.base.directory, merged.model, None, KIND, write_dtype)
    return checks[0].verdict


def exact(experts: ExpertSet, value: float) -> tuple[dict[str, torch.Tensor], ...]:
    """Base, and base + value · Στ, in fp64."""
    base = {n: experts.base.read(n).double() for n in experts.names}
    summed = {n: base[n] + value * stack.double().sum(0) for n, stack in experts.stacks()}
    return base, summed


@pytest.mark.parametrize("write_dtype", ["base", "float32", "bfloat16", "float16"])
def test_what_rounding_takes_of_the_change_is_measured(
    coarse_set: ExpertSet, tmp_path: Path, write_dtype: WriteDtype
) -> None:
    merged = write(coarse_set, tmp_path / "out", write_dtype)
    base, summed = exact(coarse_set, 0.3)
    written = Checkpoint.open(merged.model)
    change = sum(float((summed[n] - base[n]).square().sum()) for n in base)
    lost = sum(float((summed[n] - written.read(n).double()).square().sum()) for n in base)
    precision = Precision.load(merged.precision)
    assert precision.lost == pytest.approx((lost / change) ** 0.5, rel=1e-3, abs=1e-6)
    assert (precision.lost == 0) == (write_dtype == "float32")
    wanted = "bfloat16" if write_dtype == "base" else write_dtype
    assert precision.dtype == wanted
    assert {str(i.dtype) for i in written.tensors.values()} == {f"torch.{wanted}"}
    assert written.config["dtype"] == wanted
    assert AutoModel.from_pretrained(merged.model).dtype == getattr(torch, wanted)
    verify(coarse_set, merged)
    assert verdict(coarse_set, merged, write_dtype) == "passed"
    other: WriteDtype = "base" if write_dtype == "float32" else "float32"
    assert verdict(coarse_set, merged, other) == "failed"


def test_a_wider_model_gives_the_expert_that_its_base_could_not(
    coarse_set: ExpertSet, tmp_path: Path
) -> None:
    alone = first(coarse_set, 1)
    expert = alone.experts[0]
    merged = write(alone, tmp_path / "out", "float32", 1.0)
    found = Checkpoint.open(merged.model)
    for name in alone.names:
        original = expert.files.checkpoint.read(name)
        torch.testing.assert_close(found.read(name), original, rtol=1e-6, atol=1e-7)
    own = evaluate(alone.backbone("task-0"), expert.head, expert.split.gate, CPU)
    assert evaluate(Backbone.of(found, KIND), expert.head, expert.split.gate, CPU) == own


def test_the_plan_says_how_large_the_model_will_be(coarse_set: ExpertSet) -> None:
    host = Memory(host=1 << 40)
    numbers = sum(torch.Size(i.shape).numel() for i in coarse_set.base.tensors.values())
    assert make_plan(coarse_set, MergeSettings(), host).written == 2 * numbers
    wide = make_plan(coarse_set, MergeSettings(write_dtype="float32"), host)
    assert wide.to_json()["written_bytes"] == 4 * numbers


def test_what_float16_cannot_hold_is_refused(text_set: ExpertSet, tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match=r"of the merged model.*65,504.*write_dtype"):
        write(text_set, tmp_path / "out", "float16", 1e6)
    assert not list(tmp_path.iterdir())


def test_buffers_and_integers_stay_as_they_are(tmp_path: Path) -> None:
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=2
    )
    torch.manual_seed(0)
    base = ResNetModel(config)
    base.save_pretrained(tmp_path / "base")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "base")
    model = ResNetForImageClassification(config)
    model.resnet.load_state_dict(base.state_dict())
    directory = save_expert(moved(model, 1), tmp_path / "expert", image_table(1))
    expert = open_expert("task", directory, ModelKind.IMAGE_CLASSIFIER)
    experts = ExpertSet.open(tmp_path / "base", [expert], ModelKind.IMAGE_CLASSIFIER)
    merged = write(experts, tmp_path / "out", "bfloat16")
    buffers = {name for name, _ in base.named_buffers()}
    for name, tensor in load_file(merged.model / "model.safetensors").items():
        original = experts.base.tensors[name].dtype
        assert tensor.dtype == (original if name in buffers else torch.bfloat16), name
    assert {n for n, i in experts.base.tensors.items() if i.dtype == torch.int64} <= buffers
    checks = check_weights(
        tmp_path / "base", merged.model, None, experts.kind, "bfloat16", experts.buffers
    )
    assert checks[0].verdict == "passed"


def test_configurations_inside_a_configuration_say_the_dtype_too(
    text_set: ExpertSet, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(text_set.base.directory, base)
    content = json.loads((base / "config.json").read_text())
    content |= {"torch_dtype": "float32", "inner": {"dtype": "float32"}, "limit": float("inf")}
    (base / "config.json").write_text(json.dumps(content))
    merged = write(ExpertSet.open(base, text_set.experts, KIND), tmp_path / "out", "bfloat16")
    config = json.loads((merged.model / "config.json").read_text())
    assert (config["dtype"], config["inner"]["dtype"]) == ("bfloat16", "bfloat16")
    assert "torch_dtype" not in config
    assert config["limit"] == float("inf")


@pytest.fixture(scope="module")
def wide_set(tmp_path_factory: pytest.TempPathFactory) -> ExpertSet:
    """Matrices large enough that their rows are shared out over threads."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    config = bert_config(hidden_size=192, intermediate_size=384, num_hidden_layers=1)
    BertModel(config).save_pretrained(folder / "base")
    write_tokenizer(folder / "base", WORDS)
    experts = [
        open_expert(f"task-{i}", write_text_expert(folder / "base", folder / f"{i}", i), KIND)
        for i in range(2)
    ]
    return ExpertSet.open(folder / "base", experts, KIND)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("preprocess", ["none", "tsv-m"])
def test_the_same_bytes_on_one_thread_and_on_two(
    wide_set: ExpertSet, tmp_path: Path, preprocess: str, threads: Callable[[int], None]
) -> None:
    values = {n: torch.rand(2, wide_set.base.tensors[n].shape[0]) for n in wide_set.names}
    coefficients = Coefficients(wide_set.tasks, values, preprocess)  # type: ignore[arg-type]
    for count in (1, 2):
        threads(count)
        materialise(wide_set, coefficients, wide_set.heads, tmp_path / f"{count}", "bfloat16")
    assert digest_directory(tmp_path / "1") == digest_directory(tmp_path / "2")


def test_models_of_before_there_was_a_choice_are_verified_as_their_base(
    text_set: ExpertSet, tmp_path: Path
) -> None:
    merged = write(text_set, tmp_path / "out", "base")
    merged.precision.unlink()
    verify(text_set, merged)


def test_a_model_written_in_another_dtype_than_recorded_is_found(
    text_set: ExpertSet, tmp_path: Path
) -> None:
    merged = write(text_set, tmp_path / "out", "base")
    weights = merged.model / "model.safetensors"
    save_file({n: t.bfloat16() for n, t in load_file(weights).items()}, weights)
    assert verdict(text_set, merged, "base") == "failed"
