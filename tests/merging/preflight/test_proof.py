"""An expert that is another one here than at its author's is refused where the two part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BartForConditionalGeneration,
    LevitConfig,
    LevitForImageClassification,
    LevitModel,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTImageProcessorPil,
)

from benchmarks.small_configs import architectures
from benchmarks.small_models import save_models
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles, open_expert
from merging.kinds import ModelKind
from merging.preflight import proof
from merging.preflight.expert import check_expert
from merging.preflight.mismatch import Mismatch
from merging.preflight.proof import prove
from tests.merging.tiny import (
    WORDS,
    bart_config,
    generation_table,
    image_table,
    moved,
    save_expert,
    text_table,
)
from tests.tiny_tokenizer import SPECIAL, write_tokenizer

TEXTS, IMAGES, WRITERS = ModelKind
VOCABULARY = len(SPECIAL) + len(WORDS)
TOKENS = {
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
Copy = Callable[[Path], Path]


def look(base: Path, expert: Path, kind: ModelKind = TEXTS) -> tuple[Mismatch, ...]:
    opened, files = Checkpoint.open(base), ExpertFiles(expert)
    return check_expert(opened, files, kind) or prove(opened, open_expert("t", files, kind), kind)


@pytest.fixture
def expert(text_expert_directories: tuple[Path, ...], copy_of: Copy) -> Path:
    return copy_of(text_expert_directories[0])


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def lower_case(folder: Path) -> None:
    change_json(folder / "tokenizer.json", normalizer={"type": "Lowercase"})


def other_words(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words[WORDS[0]], words[WORDS[1]] = words[WORDS[1]], words[WORDS[0]]
    change_json(folder / "tokenizer.json", model=content["model"])


def added_token(folder: Path) -> None:
    """A token that the texts use, in the place of one that the base has: no shape changes."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"{WORDS[0]} {WORDS[1]}"])
    tokenizer.save_pretrained(folder)
    line = json.dumps({"text": f"{WORDS[0]} {WORDS[1]}", "label": "class-0"})
    with (folder / "examples.jsonl").open("a") as file:
        file.write(line + "\n")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lower_case, "token ids"),
        (other_words, "tokenizer"),
        (added_token, "token ids"),
        (lambda f: change_json(f / "tokenizer_config.json", model_max_length=6), "token ids"),
    ],
)
def test_another_tokenizer_is_refused_by_what_it_does(
    text_base: Path, expert: Path, change: Callable[[Path], None], where: str
) -> None:
    write_tokenizer(expert, WORDS)
    assert look(text_base, expert) == ()
    change(expert)
    (mismatch,) = look(text_base, expert)
    assert mismatch.tensor == where, mismatch
    assert "base" in mismatch.remedy


def test_a_tokenizer_that_only_says_the_same_in_other_words_is_no_difference(
    text_base: Path, expert: Path
) -> None:
    write_tokenizer(expert, WORDS)
    tokenizer = AutoTokenizer.from_pretrained(expert)
    tokenizer.add_tokens(["never-used"])
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(expert)
    assert look(text_base, expert) == ()


def test_images_prepared_in_another_way_are_refused_with_the_settings_that_differ(
    images: tuple[Path, Path], copy_of: Copy
) -> None:
    base, good = images
    assert look(base, good, IMAGES) == ()
    expert = copy_of(good)
    ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.4] * 3).save_pretrained(
        expert
    )
    (mismatch,) = look(base, expert, IMAGES)
    assert mismatch.tensor == "pixel values"
    assert "image_mean" in mismatch.found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base with batch norms, and an expert that left their statistics alone."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("images")
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=2)
    ResNetModel(config).save_pretrained(folder / "base")
    model = ResNetForImageClassification.from_pretrained(
        folder / "base", num_labels=2, id2label={0: "dark", 1: "bright"}
    )
    save_expert(moved(model, 0), folder / "expert", image_table(0))
    for name in ("base", "expert"):
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / name)
    return folder / "base", folder / "expert"


def test_moved_statistics_of_batch_norms_are_refused(
    images: tuple[Path, Path], copy_of: Copy
) -> None:
    base, expert = images[0], copy_of(images[1])
    tensors = load_file(expert / "model.safetensors")
    moving = next(name for name in tensors if name.endswith("running_mean"))
    tensors[moving] += 0.1
    save_file(tensors, expert / "model.safetensors", metadata={"format": "pt"})
    (mismatch,) = look(base, expert, IMAGES)
    assert mismatch.tensor == moving
    assert "batch norms" in mismatch.remedy


def test_a_setting_of_how_texts_are_written_is_refused_where_it_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, expert = tmp_path / "base", tmp_path / "expert"
    torch.manual_seed(0)
    model = BartForConditionalGeneration(bart_config(16))
    model.save_pretrained(base)
    write_tokenizer(base, WORDS)
    save_expert(moved(model, 0), expert, generation_table(0))
    assert look(base, expert, WRITERS) == ()

    def forget(ours: proof.Ours, values: list) -> list[str]:
        ours.model.generation_config.forced_bos_token_id = 7
        return serve(ours, values)

    serve = proof.Ours.texts
    monkeypatch.setattr(proof.Ours, "texts", forget)
    (mismatch,) = look(base, expert, WRITERS)
    assert mismatch.tensor == "answers", mismatch


def test_an_architecture_that_keeps_what_it_made_of_its_parameters_is_refused(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 8, 8], "num_attention_heads": [1, 1, 1], "depths": [1, 1, 1]}
    config = LevitConfig(image_size=32, key_dim=[8] * 3, **sizes)
    config.down_ops = [["Subsample", 8, 1, 4, 2, 2], ["Subsample", 8, 1, 4, 2, 2], [""]]
    base, expert = tmp_path / "base", tmp_path / "expert"
    LevitModel(config).save_pretrained(base)
    model = LevitForImageClassification.from_pretrained(
        base, num_labels=2, id2label={0: "dark", 1: "bright"}
    )
    save_expert(moved(model, 0, 0.3), expert, image_table(0))
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(base)
    # A configuration of this architecture grows each time that a model is made of it.
    same = json.loads((base / "config.json").read_text())["down_ops"]
    change_json(expert / "config.json", down_ops=same)
    (mismatch,) = look(base, expert, IMAGES)
    assert "kept from one pass to the next" in mismatch.found
    assert "nothing is wrong with the fine-tuning" in mismatch.remedy


@pytest.mark.parametrize("name", ["bert", "llama4_text", "qwen2_audio", "xlnet"])
def test_generators_that_transformers_ties_renames_or_files_elsewhere_are_exact(
    tmp_path: Path, name: str
) -> None:
    one = next(one for one in architectures(WRITERS) if one.name == name)
    base, expert = tmp_path / "base", tmp_path / "expert"
    save_models(one, base, expert)
    generation_table(0).to_parquet(expert / "examples.parquet")
    assert look(base, expert, WRITERS) == ()


def label_names(*names: str, **places: int) -> Callable[[Path], None]:
    numbered = {str(number): name for number, name in enumerate(names)}
    return lambda folder: change_json(folder / "config.json", id2label=numbered, label2id=places)


def from_one(folder: Path) -> None:
    names = {str(number): f"class-{number - 1}" for number in (1, 2, 3)}
    change_json(folder / "config.json", id2label=names, label2id={})


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        (from_one, "config.id2label", "the numbers [1, 2, 3]"),
        (label_names("b", "a", "c", a=0, b=1), "config.id2label", "'a' as 1, and as 0 in label2id"),
        (label_names("a", "b"), "model", "classifier.weight of shape [2, 16] (it has [3, 16])"),
    ],
)
def test_label_names_that_contradict_each_other_or_the_head_are_refused(
    text_base: Path, expert: Path, change: Callable[[Path], None], where: str, words: str
) -> None:
    change(expert)
    found = look(text_base, expert)
    assert found[0].tensor == where, found
    assert words in found[0].found
    assert found[0].remedy


def test_weights_that_still_hold_the_layers_of_peft_are_called_so(
    text_base: Path, expert: Path
) -> None:
    tensors = load_file(expert / "model.safetensors")
    wrapped = {name.replace(".query.", ".query.base_layer."): t for name, t in tensors.items()}
    save_file(wrapped, expert / "model.safetensors", {"format": "pt"})
    (mismatch,) = look(text_base, expert)
    assert "merge_and_unload" in mismatch.remedy


@pytest.mark.parametrize("moved_by", [0.0, 0.1])
def test_a_tied_weight_that_is_saved_twice_is_taken_if_it_is_the_same(
    tmp_path: Path, moved_by: float
) -> None:
    base, expert = tmp_path / "base", tmp_path / "expert"
    torch.manual_seed(0)
    model = BartForConditionalGeneration(bart_config(16))
    model.save_pretrained(base)
    write_tokenizer(base, WORDS)
    save_expert(moved(model, 0), expert, generation_table(0))
    tensors = load_file(expert / "model.safetensors")
    again = {"lm_head.weight": tensors["model.shared.weight"].clone() + moved_by}
    save_file({**tensors, **again}, expert / "model.safetensors", {"format": "pt"})
    found = look(base, expert, WRITERS)
    assert [m.tensor for m in found] == (["lm_head.weight"] if moved_by else [])
    assert all("tied" in m.remedy for m in found)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("model_type", ["modernbert", "llama", "qwen2", "mistral"])
def test_a_tagger_is_no_classifier(tmp_path: Path, model_type: str, named: bool) -> None:
    base, expert = tmp_path / "base", tmp_path / "expert"
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model(
        model_type,
        **sizes,
        num_hidden_layers=1,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        **TOKENS,
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(base)
    write_tokenizer(base, WORDS)
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=3)
    save_expert(moved(model, 0), expert, text_table(0).replace("class-", "LABEL_", regex=True))
    assert look(base, expert) != ()
    if not named:
        change_json(expert / "config.json", architectures=None)
    found = look(base, expert)
    # Without its class's name ModernBERT's two heads have the same tensors, and one cannot be told.
    assert bool(found) == (named or model_type != "modernbert"), found
    assert not found or found[0].tensor == ("config.architectures" if named else "head")


@pytest.mark.parametrize("name", ["tokenizer.json", "special_tokens_map.json", "spiece.model"])
def test_what_git_lfs_left_among_an_experts_files_is_called_by_its_name(
    text_base: Path, expert: Path, name: str
) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\nsize 9\n"
    for never_read in ("pytorch_model.bin", "model.fp16.safetensors", "README.md"):
        (expert / never_read).write_text(pointer)
    assert look(text_base, expert) == ()
    (expert / name).write_text(pointer)
    (mismatch,) = look(text_base, expert)
    assert mismatch.tensor == name
    assert "git lfs pull" in mismatch.remedy


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"architectures": ["BertForTokenClassification"]}, "config.architectures"),
        ({"quantization_config": {"quant_method": "gptq"}}, "config.quantization_config"),
    ],
)
def test_what_the_configuration_says_of_the_whole_folder_is_refused_by_name(
    text_base: Path, expert: Path, changes: dict[str, object], where: str
) -> None:
    change_json(expert / "config.json", **changes)
    assert [m.tensor for m in look(text_base, expert)] == [where]


def test_tensors_that_the_class_does_not_use_are_refused(text_base: Path, expert: Path) -> None:
    tensors = load_file(expert / "model.safetensors")
    save_file(
        {**tensors, "crf.transitions": torch.ones(3, 3)},
        expert / "model.safetensors",
        metadata={"format": "pt"},
    )
    (mismatch,) = look(text_base, expert)
    assert "crf.transitions" in mismatch.found


@pytest.mark.parametrize("size", [1.01, 1.001])
def test_an_effect_of_a_percent_is_found(
    text_base: Path, expert: Path, monkeypatch: pytest.MonkeyPatch, size: float
) -> None:
    """As an adapter shows it, whose tensors PEFT and we have under other names."""

    def larger(ours: proof.Ours, encoded: list) -> list[torch.Tensor]:
        return [size * one for one in logits(ours, encoded)]

    logits = proof.Ours.logits
    monkeypatch.setattr(proof.Ours, "logits", larger)
    (mismatch,) = look(text_base, expert)
    assert mismatch.tensor == "logits"


def test_what_transformers_itself_cannot_load_is_said_with_its_words(
    text_base: Path, expert: Path
) -> None:
    write_tokenizer(expert, WORDS)
    (expert / "tokenizer.json").write_text("{")
    (mismatch,) = look(text_base, expert)
    assert mismatch.tensor == "author's library"
    assert "Error" in mismatch.found or "Exception" in mismatch.found


def test_an_expert_whose_gradient_is_nowhere_is_refused(
    text_base: Path, expert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof.Ours, "learn", lambda *_: (0, True))
    (mismatch,) = look(text_base, expert)
    assert mismatch.tensor == "learning"
