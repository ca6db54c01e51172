"""Whether an expert's configuration means the base's backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from merging.preflight.mismatch import Mismatch

# These keys of a configuration may differ between a base and its experts: they say names, heads,
# dropout, or how it was saved.
FREE_KEYS = frozenset(
    {
        *("architectures", "id2label", "label2id", "num_labels", "problem_type"),
        *("transformers_version", "dtype", "torch_dtype", "_name_or_path", "use_cache"),
        *("classifier_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"),
        *("dropout_rate", "gradient_checkpointing", "pad_token_id", "return_dict", "is_decoder"),
        *("output_hidden_states", "output_attentions", "finetuning_task"),
        "position_embedding_type",
    }
)


def compare_configurations(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[Mismatch]:
    """Each setting that makes the expert's backbone another one."""
    for key in sorted(set(ours) & set(theirs) - FREE_KEYS):
        if ours[key] != theirs[key]:
            yield Mismatch(f"config.{key}", f"{ours[key]!r:.80}", f"{theirs[key]!r:.80}")
