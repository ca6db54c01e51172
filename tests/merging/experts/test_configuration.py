"""A configuration means what transformers reads in it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig, BertConfig, Mamba2Config, SwinConfig

from merging.errors import InvalidInput
from merging.experts.configuration import parsed_config, read_config
from merging.experts.expert import ExpertFiles, read_head
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.serving import model_class

Copy = Callable[[Path], Path]


@pytest.mark.parametrize(
    "config",
    [
        Mamba2Config(time_step_limit=(0.0, math.inf)),  # JSON has neither tuples nor infinity
        SwinConfig(depths=[1, 1], num_heads=[1, 2]),
        BertConfig(),
        BertConfig(num_labels=5),
    ],
)
def test_a_configuration_is_what_transformers_reads_and_survives_in_a_head(
    tmp_path: Path, config: object
) -> None:
    config.save_pretrained(tmp_path)
    expected = AutoConfig.from_pretrained(tmp_path)
    Head("task", read_config(tmp_path)).save(tmp_path / "head")
    head = Head.load(tmp_path / "head", "task")
    expected.name_or_path = ""
    assert parsed_config(tmp_path, read_config(tmp_path)) == expected
    assert parsed_config(tmp_path, head.config).to_dict() == expected.to_dict()


def test_infinity_as_people_write_it_is_read_as_well(tmp_path: Path) -> None:
    Mamba2Config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(AutoConfig.from_pretrained(tmp_path).to_dict()))
    assert "Infinity" in path.read_text()
    _, parsed = model_class(read_config(tmp_path), "generator")
    assert parsed.time_step_limit[1] == math.inf


def test_two_labels_with_default_names_are_not_written_and_known_all_the_same(
    text_expert_directories: tuple[Path, ...], copy_of: Copy
) -> None:
    expert = copy_of(text_expert_directories[0])
    config = json.loads((expert / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (expert / "config.json").write_text(json.dumps(config))
    head = read_head("task", ExpertFiles(expert), ModelKind.TEXT_CLASSIFIER)
    assert head.labels == ("LABEL_0", "LABEL_1")


HOSTILE = {
    "deep lists": ("[" * 10_000 + "]" * 10_000, "nested more than 64 deep"),
    "deep objects": ('{"a":' * 10_000 + "0" + "}" * 10_000, "nested more than 64 deep"),
    "a little too deep": ('{"a":' * 100 + "0" + "}" * 100, "nested more than 64 deep"),
    "large": ('"' + "x" * (17 << 20) + '"', "more than 16 MB"),
    "a key twice": ('{"model_type": "bert", "model_type": "gpt2"}', "the key 'model_type' twice"),
    "half a character": ('{"model_type": "bert", "_": {"0": "\\ud800"}}', "surrogates"),
    "a long number": ("1" * 5000, "4300"),
    "a byte order mark": ("\ufeff{}", "BOM"),
    "no JSON": ("{", "line 1"),
    "no object": ("[]", "no JSON object"),
    "many labels": (
        '{"model_type": "bert", "num_labels": 1000000000000}',
        "num_labels of 1,000,000,000,000",
    ),
    "a million labels": (
        json.dumps({"id2label": {str(i): "x" for i in range(1_000_000)}}),
        "id2label of 1,000,000",
    ),
    "many labels in a part": (
        '{"model_type": "clip", "text_config": {"num_labels": 10000000}}',
        "num_labels of",
    ),
    "many layers": (
        '{"model_type": "qwen3", "num_hidden_layers": 1000000000}',
        "num_hidden_layers",
    ),
    "a label without number": ('{"model_type": "bert", "id2label": {"first": "x"}}', "'bert'"),
    "no model type": ("{}", "model_type None"),
    "a model type that is a list": ('{"model_type": ["bert"]}', "model_type"),
    "a width in words": ('{"model_type": "bert", "hidden_size": "wide"}', "hidden_size"),
    "an unknown dtype": ('{"model_type": "bert", "dtype": "float128"}', "float128"),
    "code": ('{"model_type": "bert", "auto_map": {"AutoConfig": "x.Y"}}', "run code"),
    "another file": (
        '{"model_type": "bert", "configuration_files": ["config.1.0.0.json"]}',
        "another file",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_configuration_is_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    text, sentence = HOSTILE[case]
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        parsed_config(tmp_path, read_config(tmp_path))
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 700
