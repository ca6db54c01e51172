"""What is worth knowing of an expert that fits: sentences, none of which keeps it from being merged."""

from __future__ import annotations

from collections.abc import Iterator

from merging.experts.expert import Expert


def remarks(expert: Expert) -> Iterator[str]:
    """Each sentence that people should read of an expert, in the order of its parts."""
    nameless = [name for name in expert.head.labels if name.startswith("LABEL_")]
    if nameless:
        yield (
            f"Its labels have no names but {', '.join(nameless[:3])}, so that is what the merged "
            "model answers; set id2label in its config.json if they have better ones."
        )
    if not expert.files.is_adapter and (aside := expert.files.checkpoint.left_aside):
        yield (
            f"{', '.join(aside)} {'lie' if len(aside) > 1 else 'lies'} beside the weights and "
            "was not read, since transformers does not read it either."
        )
