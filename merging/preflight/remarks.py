"""What is worth knowing of an expert that fits: sentences, none of which keeps it from being merged."""

from __future__ import annotations

from collections.abc import Iterator

from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import Expert


def remarks(expert: Expert) -> Iterator[str]:
    """Each sentence that people should read of an expert, in the order of its parts."""
    nameless = [name for name in expert.head.labels if name.startswith("LABEL_")]
    if nameless:
        where = (
            "in its config.json" if expert.files.has_config else "and put its config.json beside it"
        )
        yield (
            f"Its labels have no names but {', '.join(nameless[:3])}, so that is what the merged "
            f"model answers; set id2label {where} if they have better ones."
        )
    if expert.files.is_adapter and (
        name := expert.files.adapter.config.get("base_model_name_or_path")
    ):
        yield (
            f"It says that it was trained on {str(name)[:200]!r}: make sure that this is the base here, "
            "since an adapter fits every base of the same shapes."
        )
    if not expert.files.is_adapter:
        yield from weights_aside(expert.files.checkpoint)


def weights_aside(checkpoint: Checkpoint) -> Iterator[str]:
    """A sentence about safetensors files in a folder that are not its model, if there are any."""
    if aside := checkpoint.left_aside:
        yield (
            f"{', '.join(aside)} {'lie' if len(aside) > 1 else 'lies'} beside the weights and "
            "was not read, since transformers does not read it either."
        )
