"""Libraries that load a model, without what they print."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from merging.serving.loading import quiet_transformers


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the libraries' warnings and progress bars: what matters becomes a sentence of ours."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
