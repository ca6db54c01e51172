"""What one build opens and assembles: every checkpoint once, and a model only to compute with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from merging import serving
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles, open_expert
from merging.kinds import ModelKind
from merging.learning.grouping import cosines
from merging.learning.learn import learn_coefficients
from merging.learning.plan import Memory, make_plan
from merging.models.evaluate import evaluate
from merging.models.materialise import materialise
from merging.preflight.expert import check_expert
from merging.settings import MergeSettings
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet

KIND = ModelKind.TEXT_CLASSIFIER
CPU = torch.device("cpu")
# Who assembles models, and for what.
LOADERS = {
    "merging.vectors.layout": "names, without weights",
    "merging.learning.taskmodels": "learning",
    "merging.learning.calibration": "the experts' own answers",
    "merging.models.evaluate": "evaluation",
}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()
    real = Checkpoint.open

    def count(directory: Path) -> Checkpoint:
        counts[directory.name] += 1
        return real(directory)

    monkeypatch.setattr(Checkpoint, "open", count)
    return counts


@pytest.fixture
def assembled(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()

    def counting(what: str) -> Any:
        def count(*arguments: Any) -> Any:
            counts[what] += 1
            return serving.assemble(*arguments)

        return count

    for module, what in LOADERS.items():
        monkeypatch.setattr(f"{module}.assemble", counting(what))
    return counts


def test_a_build_of_three_experts(
    text_base: Path,
    text_expert_directories: tuple[Path, ...],
    tmp_path: Path,
    opened: Counter[str],
    assembled: Counter[str],
) -> None:
    base = Checkpoint.open(text_base)
    files = [ExpertFiles(directory) for directory in text_expert_directories]
    assert [check_expert(base, each, KIND) for each in files] == [()] * 3
    assert assembled == {"names, without weights": 3}

    experts = ExpertSet(base, tuple(open_expert(f.directory.name, f, KIND) for f in files), KIND)
    settings = MergeSettings(steps=2, batch_size=2)
    make_plan(experts, settings, Memory.of(CPU))
    learned = learn_coefficients(experts, settings, work=tmp_path / "work", device=CPU)
    merged = materialise(experts, learned.coefficients, learned.heads, tmp_path / "out")
    cosines(experts)
    candidate = Backbone.open(merged.model, KIND)
    for expert in experts.experts:
        for backbone in (Backbone.of(base, KIND), experts.backbone(expert.task), candidate):
            evaluate(backbone, expert.head, expert.split.gate, CPU)

    assert opened == dict.fromkeys(["base", "expert-0", "expert-1", "expert-2", "model"], 1)
    assert assembled == {
        "names, without weights": 3 + 1,  # one for each expert that is checked, one for the set
        "learning": 3,
        "the experts' own answers": 3,
        "evaluation": 9,
    }
