"""What an arriving expert costs before anything is learned: its checks and its proof.

    python -m benchmarks.proof                       # of a model as the demo's
    python -m benchmarks.proof --model llama         # of a generator of 1 B parameters: 8 GB of memory

Models are random and the expert lies a little beside its base. Time is of one processor and of the wall;
memory is the peak above the process that has everything imported, mapped pages of the files included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from benchmarks.peak import peak_above
from benchmarks.small_configs import WORDS
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles, open_expert
from merging.kinds import ModelKind
from merging.preflight.expert import check_expert
from merging.preflight.proof import prove
from tests.tiny_tokenizer import SPECIAL, write_tokenizer

EXAMPLES, LENGTH = 500, 32  # Rows of a table, and words of each.
LABELS: dict[str, Any] = {"num_labels": 3}
TOKENS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def bert(words: int) -> Any:
    """22.7 M parameters in fp32, as the demo's text model."""
    config = BertConfig(
        vocab_size=words, hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=1536, **LABELS,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def llama(words: int) -> Any:
    """0.97 B parameters in bf16: Llama 3.2's smallest, with a vocabulary of almost none."""
    config = LlamaConfig(
        vocab_size=words, hidden_size=2048, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, intermediate_size=8192, dtype="bfloat16", **TOKENS,
    )  # fmt: skip
    return LlamaForCausalLM(config).bfloat16()


MODELS: dict[str, tuple[ModelKind, int, Callable[[int], Any]]] = {
    "bert": (ModelKind.TEXT_CLASSIFIER, 30_522, bert),
    "llama": (ModelKind.GENERATOR, 1_024, llama),
}


@torch.no_grad()
def save(name: str, folder: Path) -> int:
    """Writes a base, and an expert with its table; gives the number of parameters."""
    kind, vocabulary, make = MODELS[name]
    words = ["".join(parts) for parts in product(WORDS, repeat=3)][: vocabulary - len(SPECIAL)]
    torch.manual_seed(0)
    model = make(vocabulary)
    (model.base_model if kind.has_head else model).save_pretrained(folder / "base")
    write_tokenizer(folder / "base", words)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base", model_max_length=512)
    tokenizer.save_pretrained(folder / "base")
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 1e-3)
    model.save_pretrained(folder / "expert")
    texts = [
        " ".join(words[(7 * row + i) % len(words)] for i in range(LENGTH))
        for row in range(EXAMPLES)
    ]
    answers = [f"LABEL_{row % 3}" if kind.has_head else words[row % 9] for row in range(EXAMPLES)]
    table = pd.DataFrame({kind.input_column: texts, kind.target_column: answers})
    table.to_parquet(folder / "expert/examples.parquet")
    return sum(parameter.numel() for parameter in model.parameters())


def measure(name: str, folder: Path) -> None:
    """Checks and proves one expert, and prints what each took."""
    kind = MODELS[name][0]
    parameters = save(name, folder)
    print(f"{name}: {parameters / 1e6:,.1f} M parameters, {torch.get_num_threads()} threads")
    base, files = Checkpoint.open(folder / "base"), ExpertFiles(folder / "expert")
    expert = open_expert("task", files, kind)
    steps: dict[str, Callable[[], Any]] = {
        "checks": lambda: check_expert(base, files, kind),
        "proof": lambda: prove(base, expert, kind, told=print),
    }
    for step, run in steps.items():
        wall, processor = time.perf_counter(), time.process_time()
        found, peak = peak_above(run)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(
            f"{step}: {wall:.1f} s ({processor:.1f} s of processor), {peak / 1e6:,.0f} MB",
            flush=True,
        )
        if found:
            raise SystemExit(f"refused: {found[0]}")


def main() -> None:
    """Measures one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), default="bert")
    with tempfile.TemporaryDirectory() as folder:
        measure(parser.parse_args().model, Path(folder))


if __name__ == "__main__":
    main()
