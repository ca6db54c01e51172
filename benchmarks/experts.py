"""The experts of benchmarks/quality.py: real tasks, fine-tuned from two backbones, trained once.

    python -m benchmarks.experts             # trains what is missing, then prints the table
    python -m benchmarks.experts --kind text-classifier --seeds 1

Needs the extra `bench`, the package registry, and for the fonts a Debian machine. Two cores train
all of it in about an hour; trained experts are kept in the cache and reused.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from infra.demo.backbones import build_base, build_image_base
from infra.demo.tasks import TASKS
from infra.demo.train import Recipe, train_expert
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import open_expert
from merging.kinds import ModelKind
from merging.models.evaluate import evaluate
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet

# In the order in which they arrive.
NAMES: dict[ModelKind, tuple[str, ...]] = {
    ModelKind.TEXT_CLASSIFIER: (
        "movie-review",
        "tweet-sentiment",
        "icd10-chapter",
        "city-country",
        "prompt-risk",
    ),
    ModelKind.IMAGE_CLASSIFIER: ("digits", "font-letters", "font-names"),
}
RATES = {ModelKind.TEXT_CLASSIFIER: 1e-4, ModelKind.IMAGE_CLASSIFIER: 5e-5}


@dataclass(frozen=True)
class Bench:
    """One backbone with its experts of one seed."""

    seed: int
    experts: ExpertSet


def load_bench(kind: ModelKind, seed: int, cache: Path, tasks: Sequence[str] = ()) -> Bench:
    """The experts of one backbone and seed, trained where they are missing.

    Args:
        kind: The backbone's kind of model.
        seed: Of the order of batches and of dropout.
        cache: Folder of downloads, bases and experts.
        tasks: Only these; all by default.
    """
    base = build_image_base(cache) if kind.reads_images else build_base(cache)
    recipe = Recipe(seed=seed, backbone_rate=RATES[kind])
    experts = []
    for name in tasks or NAMES[kind]:
        directory = train_expert(TASKS[name], base, cache / "experts", recipe=recipe)
        experts.append(open_expert(name, directory, kind))
    return Bench(seed, ExpertSet.open(base, experts, kind))


def given_bench(kind: ModelKind, base: Path, experts: Sequence[str]) -> Bench:
    """Experts that exist already.

    Args:
        kind: The backbone's kind of model.
        base: Its directory.
        experts: `task=directory` of each, in the order in which they arrive.
    """
    pairs = [expert.partition("=") for expert in experts]
    checkpoint = Checkpoint.open(base)
    opened = [open_expert(t, Path(folder), kind, base=checkpoint) for t, _, folder in pairs]
    return Bench(0, ExpertSet.open(base, opened, kind))


def main() -> None:
    """Prints the accuracy of each expert and of the base with the expert's head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kind",
        type=ModelKind,  # type: ignore[arg-type]  # mypy asks for what a member is made of
        choices=list(NAMES),
        action="append",
        help="only this backbone",
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = torch.device("cpu")
    print("| task | labels | seed | gate rows | base + head | expert |")
    print("|---|---|---|---|---|---|")
    for kind in options.kind or NAMES:
        for seed in range(options.seeds):
            bench = load_bench(kind, seed, options.cache)
            base = Backbone.of(bench.experts.base, kind)
            for expert in bench.experts.experts:
                gate = expert.split.gate
                floor = evaluate(base, expert.head, gate, device).accuracy
                own = evaluate(bench.experts.backbone(expert.task), expert.head, gate, device)
                print(
                    f"| {expert.task} | {len(expert.head.labels)} | {seed} | {len(gate)} "
                    f"| {floor:.3f} | {own.accuracy:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
