"""Whether an expert's configuration means the base's backbone: by what the backbone answers under it.

Two configurations are compared as transformers parses them, with every default filled in. A setting
that differs is refused only if it does something: the base's own weights are asked under both, without
dropout, for random inputs, a long one and a padded batch. So no list says which settings are harmless.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_MAPPING, PretrainedConfig

from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles
from merging.experts.heads import LABELS, VOLATILE
from merging.kinds import ModelKind
from merging.preflight.claims import refuse_claim
from merging.preflight.mismatch import Mismatch
from merging.preflight.quiet import quietly
from merging.serving import model_class
from merging.vectors.backbone import Backbone

# What these say is the head's, or is nothing about the model.
OWN = frozenset({*LABELS, *VOLATILE, "problem_type", "architectures", "quantization_config"})
LONGEST = 1024  # Tokens of the long input, where the model has room for so many.
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
REMEDY = (
    "The base's weights answer otherwise with this setting, or do not fit it: fine-tune the expert with "
    "the base's, or correct its config.json if it was trained with that."
)

Inputs = dict[str, Tensor]


def compare_configurations(
    base: Checkpoint, files: ExpertFiles, kind: ModelKind
) -> Iterator[Mismatch]:
    """Each setting of the expert under which the base's backbone answers otherwise."""
    ours, theirs = base.parsed, files.parsed
    if type(ours) is not type(theirs):
        yield Mismatch("config.model_type", str(ours.model_type), str(theirs.model_type))
        return
    a, b = _settings(ours.to_dict()), _settings(theirs.to_dict())
    differing = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    if not differing:
        return
    asked = Asked(base, ours, kind)
    if asked.answers_alike(theirs):
        return
    changed = {key: _with(ours, key, b) for key in differing}
    guilty = [key for key in differing if not asked.answers_alike(changed[key])]
    for key in guilty or differing:
        yield Mismatch(f"config.{key}", f"{a.get(key)!r:.80}", f"{b.get(key)!r:.80}", REMEDY)


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration, and those inside it, without what is the head's own."""
    return {
        key: _settings(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in OWN
    }


def _with(config: PretrainedConfig, key: str, other: dict[str, Any]) -> PretrainedConfig | None:
    """A configuration with one setting of another; None where the setting does not go with the rest."""
    values = config.to_dict()
    values.pop(key, None)
    if key in other:
        values[key] = other[key]
    try:
        return type(config).from_dict(values)
    except Exception:  # noqa: BLE001 - configurations raise anything; the setting is then named
        return None


class Asked:
    """What the base answers to a few inputs, under its own configuration."""

    def __init__(self, base: Checkpoint, config: PretrainedConfig, kind: ModelKind) -> None:
        self.base, self.kind = base, kind
        model = self._model(config)
        # An architecture may not take a long text; what it cannot answer is not asked again.
        asked = [(inputs, self._answer(model, inputs)) for inputs in _inputs(config, kind)]
        self.answers = [(i, answer) for i, answer in asked if answer is not None]

    def answers_alike(self, config: PretrainedConfig | None) -> bool:
        """Whether the same weights answer the same under another configuration."""
        if config is None or not self.answers:
            return False
        try:
            model = self._model(config)
        except Exception:  # noqa: BLE001 - weights that do not fit a setting are a difference
            return False
        for inputs, before in self.answers:
            after = self._answer(model, inputs)
            # The same operations on the same numbers give the same bits.
            if after is None or not torch.equal(after, before):
                return False
        return True

    def _model(self, config: PretrainedConfig) -> Any:
        cls: Any = MODEL_MAPPING[type(config)]
        cls = cls[0] if isinstance(cls, tuple) else cls
        if not self.kind.has_head:
            cls = model_class(config.to_dict(), self.kind)[0]
        refuse_claim(cls, config, self.base)
        tensors = Backbone.of(self.base, self.kind).tensors
        with quietly(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # What a checkpoint lacks, such as a pooler, starts by chance.
            model = cls.from_pretrained(
                None, config=config, state_dict=dict(tensors), dtype=torch.float32
            )
        return model.eval()

    @torch.inference_mode()
    def _answer(self, model: Any, inputs: Inputs) -> Tensor | None:
        """Hidden states or logits of one input, fp32; None where it cannot be answered."""
        try:
            out = model(**inputs)
            return out.last_hidden_state if self.kind.has_head else out.logits
        except Exception:  # noqa: BLE001 - see above
            return None


def _inputs(config: PretrainedConfig, kind: ModelKind) -> list[Inputs]:
    """A long random text and a padded batch of short ones, or a batch of random images."""
    generator = torch.Generator().manual_seed(0)
    if kind.reads_images:
        size: Any = getattr(config, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        shape = (2, getattr(config, "num_channels", 3), height, width)
        return [{"pixel_values": torch.randn(shape, generator=generator)}]
    room = [getattr(config, name, None) for name in POSITIONS]
    longest = min([LONGEST, *(int(n) - 2 for n in room if isinstance(n, int) and n > 2)])
    words = config.get_text_config().vocab_size
    long = torch.randint(0, words, (1, longest), generator=generator)
    short = torch.randint(0, words, (2, min(16, longest)), generator=generator)
    mask = torch.ones_like(short)
    mask[1, short.shape[1] // 2 :] = 0
    pad = getattr(config, "pad_token_id", None)
    short[mask == 0] = pad if isinstance(pad, int) and 0 <= pad < words else 0
    made = [
        {"input_ids": long, "attention_mask": torch.ones_like(long)},
        {"input_ids": short, "attention_mask": mask},
    ]
    if config.is_encoder_decoder:
        made = [{**one, "decoder_input_ids": one["input_ids"]} for one in made]
    return made
