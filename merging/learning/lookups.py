"""Embeddings of which a forward pass reads some rows only, and what else may read them.

A merged embedding is large and a batch uses a few of its words, so only the rows that are looked up are
written (`merging/learning/stream.py`). That is right as long as nothing else reads the matrix: DeBERTa
takes a whole embedding of distances for its attention, others multiply with it in place of an output
layer. No list of architectures tells; the embedding itself does, since it is asked before it is read.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

Write = Callable[[Tensor | None], None]


class WatchedEmbedding(nn.Embedding):
    """An embedding that says what is about to be read: the rows of a lookup, or all of it.

    Attributes:
        read_whole: Whether anything but its own forward pass has asked for its weight.
        write: Called with the rows, int64 of any shape, or with None before the whole weight is read.
    """

    read_whole: bool
    write: Write | None

    def forward(self, input: Tensor) -> Tensor:
        """What nn.Embedding gives."""
        if self.write is not None:
            self.write(input)
        return functional.embedding(
            input,
            self._parameters["weight"],  # type: ignore[arg-type]
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The whole matrix."""
        self.read_whole = True
        if self.write is not None:
            self.write(None)
        return self._parameters["weight"]  # type: ignore[return-value]


def watch(embedding: nn.Embedding, write: Write | None = None) -> WatchedEmbedding:
    """The same module, watched from now on; it was a plain nn.Embedding, or watched already."""
    if not isinstance(embedding, WatchedEmbedding):
        assert type(embedding) is nn.Embedding
        embedding.__class__ = WatchedEmbedding
        assert isinstance(embedding, WatchedEmbedding)
        embedding.read_whole = False
    embedding.write = write
    return embedding
