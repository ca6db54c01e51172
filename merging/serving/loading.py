"""How a backbone and a head become a task model of transformers: for learning, evaluation and serving."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

# transformers reads the index only where the first of these is missing; the second is a head's.
WEIGHTS = ("model.safetensors", "head.safetensors")
WEIGHTS_INDEX = "model.safetensors.index.json"
NAMED = 5  # Tensors that a message names.
GENERATION = "generation_config.json"  # As transformers calls it; beside a head's config.json.
# The auto classes of each kind of model. A generator has a second one, for an encoder with a decoder.
# Whatever else differs by kind follows from them: what reads the inputs, and whether text is written.
AUTO_CLASSES: dict[str, tuple[Any, ...]] = {
    "text-classifier": (AutoModelForSequenceClassification,),
    "image-classifier": (AutoModelForImageClassification,),
    "generator": (AutoModelForCausalLM, AutoModelForSeq2SeqLM),
}


class TaskError(ValueError):
    """A request that this model cannot answer, or files that are not what was promoted."""


class NotWhole(TaskError):
    """A task model that lacks tensors, or has them in other shapes than its configuration makes.

    Attributes:
        found: Which.
        remedy: What to do, as a sentence.
    """

    def __init__(self, cls: str, wrong: Mapping[str, str]) -> None:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        self.found = f"{cls} without {', '.join(list(wrong.values())[:NAMED])}{more}"
        self.remedy = (
            "Save the whole task model with save_pretrained, so that config.json (with a name in id2label "
            "for each label) and weights come from one model."
        )
        super().__init__(f"Expected a whole task model, found {self.found}. {self.remedy}")


def parse_config(config: Mapping[str, Any]) -> PretrainedConfig:
    """What transformers makes of a config.json, defaults filled in; it decodes what JSON cannot say."""
    values = {key: value for key, value in config.items() if key != "auto_map"}  # code
    return copy.deepcopy(_parsed(json.dumps(values)))


@lru_cache(maxsize=32)
def _parsed(config: str) -> PretrainedConfig:
    """One configuration; the same few are asked for again and again, and each time takes a folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(config)
        parsed = AutoConfig.from_pretrained(folder, local_files_only=True)
    parsed.name_or_path = ""
    return parsed


def model_class(config: Mapping[str, Any], kind: str) -> tuple[Any, PretrainedConfig]:
    """The transformers class of a task model, and its configuration parsed.

    Raises:
        TaskError: transformers has none for this architecture.
    """
    parsed = parse_config(config)
    auto: Any = auto_class(parsed, kind)
    try:
        mapped = auto._model_mapping[type(parsed)]  # noqa: SLF001 - nothing public tells the class
    except KeyError as error:
        raise TaskError(
            f"transformers' {auto.__name__} has no class for model type {parsed.model_type}, so there is "
            f"no {kind} of it. Use an architecture that has one."
        ) from error
    classes = mapped if isinstance(mapped, tuple) else (mapped,)
    named = [c for c in classes if c.__name__ in (parsed.architectures or ())]
    return (named or classes)[0], parsed


def auto_class(config: PretrainedConfig, kind: str) -> Any:
    """The auto class of transformers that loads a task model of this kind.

    What reads sounds, too, is among those of an encoder with a decoder, though it may have none.
    """
    classes = AUTO_CLASSES[kind]
    ordered = classes[::-1] if config.is_encoder_decoder else classes
    known = [auto for auto in ordered if type(config) in auto._model_mapping]  # noqa: SLF001
    return (known or ordered)[0]


def assemble(
    config: Mapping[str, Any],
    kind: str,
    tensors: Mapping[str, Tensor],
    generation: Mapping[str, Any] | None = None,
) -> Any:
    """A task model in evaluation mode whose fp32 tensors share memory with `tensors`.

    Args:
        config: The task model's configuration, as in its config.json.
        kind: The kind of model.
        tensors: Backbone and head by their names in checkpoints, with or without prefix.
        generation: A generator's settings, as in its generation_config.json, where it has one.

    Raises:
        TaskError: A tensor that the model needs is missing or has another shape.
    """
    model, wrong = load_model(config, kind, tensors)
    if wrong:
        raise NotWhole(type(model).__name__, wrong)
    if model.can_generate():
        with quiet_transformers():
            model.generation_config = greedy_settings(config, generation)
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and hasattr(module, "set_attention_type"):
            # BigBird goes over to full attention at its first short text, and would stay with it.
            module.register_forward_pre_hook(_use_own_attention)
    read = model.config.get_text_config()
    if not model.can_generate() and getattr(read, "pad_token_id", None) is None:
        # GPT-like classifiers then read the last token, whatever it is, and refuse a batch. An id that
        # no token has says the same of a batch.
        read.pad_token_id = -1
    return model


def load_model(
    config: Mapping[str, Any], kind: str, tensors: Mapping[str, Tensor]
) -> tuple[Any, dict[str, str]]:
    """A task model as `assemble` gives it, and which of its tensors are missing or misshapen.

    They are by name what messages call them, and hold what transformers starts them from.
    """
    cls, parsed = model_class(config, kind)
    with quiet_transformers(), _NothingPadded():
        model, info = cls.from_pretrained(
            None,
            config=parsed,
            state_dict=dict(tensors),
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    wrong = {key: key for key in sorted(info["missing_keys"])}
    for name, ours, needed in sorted(info["mismatched_keys"], key=str):
        wrong[name] = f"{name} of shape {list(needed)} (it has {list(ours)})"
    return model, wrong


class _NothingPadded(TorchFunctionMode):
    """Gives a tensor that is padded by nothing back as it is, and not as a copy.

    So transformers pads the bias of an output layer whose weight is tied to an embedding. A copy would
    no longer share memory with what was given, and no address would tell where that went.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.nn.functional.pad and len(args) > 1 and not any(args[1]):
            return args[0]
        return function(*args, **(kwargs or {}))


def _use_own_attention(module: Any, _: Any) -> None:
    module.set_attention_type(module.config.attention_type)


def greedy_settings(
    config: Mapping[str, Any], generation: Mapping[str, Any] | None
) -> GenerationConfig:
    """An author's generation settings, as transformers reads them, with the one greedy answer.

    Args:
        config: The model's config.json; older models have their settings there.
        generation: Its generation_config.json, where it has one.

    Raises:
        TaskError: transformers refuses them.
    """
    try:
        settings = (
            GenerationConfig.from_model_config(dict(config))
            if generation is None
            else GenerationConfig.from_dict(dict(generation))
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise TaskError(
            f"{GENERATION}: expected settings that transformers can use, found: {error}. Correct the "
            "file, or save it anew with model.generation_config.save_pretrained."
        ) from error
    # Only one answer is wanted, the likeliest token by token, and always the same.
    settings.do_sample, settings.num_beams, settings.num_return_sequences = False, 1, 1
    settings.return_dict_in_generate = settings.output_scores = settings.output_logits = False
    for other_search in (
        *("penalty_alpha", "dola_layers", "constraints", "force_words_ids", "num_beam_groups"),
        *("diversity_penalty", "use_mtp", "prompt_lookup_num_tokens", "assistant_early_exit"),
        "max_time",
    ):
        setattr(settings, other_search, None)
    return settings


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps back what transformers says about settings and weights that are as they have to be."""
    verbosity = transformers_logging.get_verbosity()
    _set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        _set_verbosity(verbosity)


def _set_verbosity(level: int) -> None:
    """Sets it where it is another: Python then forgets for every logger there is what it lets through."""
    if transformers_logging.get_verbosity() != level:
        transformers_logging.set_verbosity(level)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a merged model's backbone, sharded or not, or of a head, mapped from the files."""
    files = [path for name in WEIGHTS if (path := Path(directory) / name).is_file()]
    if not files and (index := Path(directory) / WEIGHTS_INDEX).is_file():
        names = json.loads(index.read_text())["weight_map"].values()
        files = [index.with_name(name) for name in sorted(set(names))]
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def read_generation(directory: Path) -> dict[str, Any] | None:
    """A generation_config.json, or None where there is none.

    Raises:
        TaskError: It is no JSON object.
    """
    path = Path(directory) / GENERATION
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise TaskError(f"{path}: expected JSON, found: {error}. Save it again.") from error
    if not isinstance(settings, dict):
        raise TaskError(f"{path}: expected a JSON object, found {settings!r:.40}. Save it again.")
    return settings


def label_names(config: Mapping[str, Any]) -> list[str]:
    """Label names by class index, from a configuration's id2label."""
    names = config.get("id2label") or {}
    return [str(names[key]) for key in sorted(names, key=int)]
