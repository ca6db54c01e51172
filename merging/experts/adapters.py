"""The folder of a PEFT adapter, read as data, and whether its configuration is understood."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from merging.errors import InvalidInput
from merging.jsonfile import read_json
from merging.safefile import load_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What these keys say is done by PEFT itself when it puts the adapter on its base, or changes nothing
# once the adapter is trained.
UNDERSTOOD = frozenset(
    {
        *("peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode"),
        *("base_model_name_or_path", "revision", "runtime_config"),
        *("target_modules", "exclude_modules", "target_parameters", "modules_to_save"),
        *("layers_to_transform", "layers_pattern", "trainable_token_indices"),
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout"),
        *("bias", "lora_bias", "fan_in_fan_out", "ensure_weight_tying"),
        *("init_lora_weights", "eva_config", "loftq_config", "megatron_core", "qalora_group_size"),
        *("feedforward_modules", "init_ia3_weights"),
    }
)
# These ways to start the factors leave the base's weights alone. PiSSA, for one, takes its factors
# out of them, so that such an adapter belongs to another base.
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
MERGE_IT = "Merge the adapter into its model with PEFT (`merge_and_unload`) and register the full checkpoint."
NO_WEIGHTS = (
    "There is no change of the base's own weights in it that could be merged (it adds to what the model "
    "reads, depends on the input, or repeats layers): train a LoRA or IA3 adapter, or a full checkpoint."
)


@dataclass(frozen=True)
class AdapterFiles:
    """What lies in the folder of a PEFT adapter.

    Attributes:
        config: adapter_config.json.
        tensors: By the names that PEFT gave them.
    """

    directory: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Reads an adapter.

        Raises:
            InvalidInput: Unreadable files, or a kind of adapter whose task vector is not known.
        """
        config = _read_config(directory)
        if not (directory / WEIGHTS).is_file():
            pickle = directory / "adapter_model.bin"
            raise InvalidInput(
                where=str(directory),
                expected=f"the adapter's weights in {WEIGHTS}",
                found=f"{pickle.name}, a pickle, which is never read"
                if pickle.exists()
                else "none",
                remedy="Save the adapter with PEFT's save_pretrained, which writes safetensors.",
            )
        tensors, _ = load_tensors(directory / WEIGHTS)
        if compiled := next((name for name in tensors if "_orig_mod." in name), None):
            raise InvalidInput(
                where=str(directory / WEIGHTS),
                expected="names that PEFT finds again in a model",
                found=f"{compiled}, the name of a compiled one",
                remedy="Save it from the model that torch.compile was given (its `_orig_mod`), or take "
                "`_orig_mod.` out of the names in the file.",
            )
        # PEFT makes factors of the ranks in the configuration before it looks at those in the file.
        patterns = config.get("rank_pattern") or {}
        ranks = [config.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
        widest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
        if too_large := [rank for rank in ranks if isinstance(rank, int) and rank > widest]:
            raise InvalidInput(
                where=str(directory / CONFIG),
                expected=f"ranks of the factors beside it, which have at most {widest} numbers a side",
                found=f"rank {too_large[0]}",
                remedy="Save the adapter with save_pretrained.",
            )
        return cls(directory, config, tensors)


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds a PEFT adapter and not a full checkpoint."""
    return (directory / CONFIG).is_file()


def resized(directory: Path, ours: int, theirs: int) -> InvalidInput:
    """What is said of an adapter whose model had more tokens, or fewer, than the base."""
    return InvalidInput(
        where=str(directory),
        expected=f"a vocabulary of {ours} tokens, as the base has it",
        found=f"one that was resized from {ours} to {theirs} before training",
        remedy=f"Give the family a base that is resized in the same way: `resize_token_embeddings({theirs})` "
        "of the model, with the tokenizer that has the added tokens; or train without adding tokens.",
    )


def _read_config(directory: Path) -> dict[str, Any]:
    config = read_json(directory / CONFIG)
    if not isinstance(config, dict):
        raise InvalidInput(
            where=str(directory / CONFIG),
            expected="the JSON configuration of a PEFT adapter",
            found=f"{config!r:.80}",
            remedy="Save the adapter with save_pretrained.",
        )
    if not_understood := list(_not_understood(config)):
        raise InvalidInput(
            where=str(directory / CONFIG),
            expected="an adapter of kind LORA or IA3 that adds to its base, or scales it",
            found=" ".join(not_understood),
            remedy=MERGE_IT if _changes_weights(config) else NO_WEIGHTS,
        )
    return config


def _changes_weights(config: Mapping[str, Any]) -> bool:
    """Whether PEFT can merge this kind of adapter into the base's weights, where it is known at all."""
    from peft import PEFT_TYPE_TO_TUNER_MAPPING

    tuners: Any = PEFT_TYPE_TO_TUNER_MAPPING
    tuner = tuners.get(str(config.get("peft_type")))
    shapes = config.get("alora_invocation_tokens") or config.get("layer_replication")
    return not shapes and (tuner is None or hasattr(tuner, "merge_and_unload"))


def _not_understood(config: Mapping[str, Any]) -> Iterator[str]:
    """What makes the adapter something else than a product that is added, or a scale."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING  # takes seconds, and only adapters need it

    kind = config.get("peft_type")
    if kind not in ("LORA", "IA3"):
        yield f"peft_type={kind}"
        return
    if (start := config.get("init_lora_weights")) not in STARTS:
        yield f"init_lora_weights={start}"
    known = fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])
    defaults = {field.name: field.default for field in known if field.default is not MISSING}
    for key in sorted(set(config) - UNDERSTOOD):
        if config[key] and config[key] != defaults.get(key):
            yield f"{key}={config[key]!r:.80}"
