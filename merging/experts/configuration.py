"""The configuration of a checkpoint, read by transformers itself once it is known to be small."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import MODEL_MAPPING, PretrainedConfig

from merging.errors import InvalidInput
from merging.jsonfile import read_json
from merging.serving import parse_config

MOST_LABELS = 100_000
MOST_LAYERS = 10_000
# Configurations make a list or a dictionary as long as these numbers say, and models as many modules.
_LABELS = re.compile(r"(num_labels|id2label|label2id|num_classes)$")
_LAYERS = re.compile(r"(^|_)(layers?|depths?)$")


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint, as it stands there; `parsed_config` says what transformers makes of it.

    Raises:
        InvalidInput: It is missing, not JSON, asks for code of its own, or claims sizes that no model has.
    """
    path = directory / "config.json"
    config = read_json(path)
    wrong = None
    if not isinstance(config, dict) or not isinstance(config.get("id2label") or {}, dict):
        wrong = "a configuration, or an id2label in it, that is no JSON object"
    elif "configuration_files" in config:
        wrong = "configuration_files, which leads to another file"
    elif too_many := next(_too_many(config), None):
        wrong = too_many
    if wrong:
        raise InvalidInput(
            where=str(path),
            expected="the JSON configuration of a Hugging Face checkpoint",
            found=wrong,
            remedy="Save the model with save_pretrained.",
        )
    if "auto_map" in config:
        raise InvalidInput(
            where=str(path),
            expected="an architecture that transformers itself has",
            found="auto_map, which would run code from the checkpoint",
            remedy="Remote code is never run; use an architecture of transformers.",
        )
    return config


def parsed_config(directory: Path, config: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration object that transformers makes of `config`, defaults filled in.

    Raises:
        InvalidInput: transformers does not know the architecture, or refuses a value.
    """
    try:
        return parse_config(config)
    except Exception as error:
        # The class of an architecture may raise anything for values that it was not written for.
        raise InvalidInput(
            where=str(directory / "config.json"),
            expected="a configuration that transformers knows",
            found=f"model_type {config.get('model_type')!r:.80}: {' '.join(str(error).split())[:200]}",
            remedy="Use an architecture of the installed transformers.",
        ) from error


def backbone_class(directory: Path, config: PretrainedConfig) -> Any:
    """The class that AutoModel makes for this architecture.

    Raises:
        InvalidInput: It has none.
    """
    try:
        backbone: Any = MODEL_MAPPING[type(config)]
    except (KeyError, ValueError) as error:
        raise InvalidInput(
            where=str(directory),
            expected="an architecture with a plain backbone (AutoModel)",
            found=str(config.model_type),
            remedy="Use an architecture that AutoModel can load.",
        ) from error
    # Funnel has one with and one without a decoder.
    return backbone[0] if isinstance(backbone, tuple) else backbone


def backbone_prefix(directory: Path, config: PretrainedConfig) -> str:
    """What task models of this architecture put before the names of their backbone.

    Raises:
        InvalidInput: AutoModel has no class for it.
    """
    return f"{backbone_class(directory, config).base_model_prefix}."


def _too_many(values: Any) -> Iterator[str]:
    """Sentences on numbers in a configuration that are beyond what any model has."""
    if isinstance(values, list):
        for value in values:
            yield from _too_many(value)
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        size = value if isinstance(value, int) else len(value) if hasattr(value, "__len__") else 0
        if _LABELS.search(key) and size > MOST_LABELS:
            yield f"{key} of {size:,}, where {MOST_LABELS:,} are taken"
        if _LAYERS.search(key) and isinstance(value, int) and size > MOST_LAYERS:
            yield f"{key} of {size:,}, where {MOST_LAYERS:,} are taken"
        yield from _too_many(value)
