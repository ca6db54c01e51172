"""The tasks that make and judge a merge need no server: they are given plain values."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tasks.learn
from infra.engine import Engine
from infra.errors import Unavailable
from infra.families import Family
from infra.registry.experts import ExpertVersion
from infra.registry.tags import ExpertTags
from infra.storage.manifest import MergedExpert
from merging.experts.examples import Examples
from merging.experts.expert import ExpertFiles, open_expert
from merging.kinds import ModelKind
from merging.models.coefficients import Coefficients
from tasks.device import choose_device
from tasks.gate import judge
from tasks.learn import learn, write_model
from tasks.preflight import preflight
from tasks.report import write_report
from tasks.values import Base, Build, Deployed, Member, Pulled
from tests.merging.gate.chosen_answers import task_scores

FAMILY = Family(
    name="f",
    kind=ModelKind.TEXT_CLASSIFIER,
    base="s3://bucket/base",
    bucket="bucket",
    ladder=("chain", "relearn"),
)


def member(task: str, folder: Path) -> Member:
    record = MergedExpert(task=task, name=f"f-{task}", version=1, source="s3://b/x", digest=task)
    files = ExpertFiles(folder)
    opened = open_expert(task, files, FAMILY.kind, examples=folder / "examples.parquet")
    return Member(record, opened)


@pytest.fixture
def build(base: Path, expert: Callable[..., Path], tmp_path: Path) -> Build:
    """Food arrives where weather is deployed."""
    opened = Base(base, "digest-of-base")
    weather, food = member("weather", expert("weather")), member("food", expert("food"))
    first = Build(FAMILY, "relearn", opened, None, (weather,))
    champion = write_model.fn(first, learned(first, 0.5), tmp_path / "champion")
    promotion = SimpleNamespace(version=1, sequence=1, deployment=1)
    return Build(
        FAMILY, "relearn", opened, Deployed(promotion, None, champion, (weather,)), (food,)
    )


def learned(build: Build, value: float) -> SimpleNamespace:
    experts = build.experts
    return SimpleNamespace(
        coefficients=Coefficients.constant(experts.tasks, experts.names, value),
        heads=experts.heads,
        history=(),
        plan=SimpleNamespace(to_json=dict),
    )


def engine(**given: Callable) -> Engine:
    return Engine(
        **{
            **dict.fromkeys(("learn", "evaluate", "time_answers", "prove", "check_answers")),
            **given,
        }
    )


@pytest.fixture
def _log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.learn, "get_run_logger", lambda: logging.getLogger("test"))


@pytest.mark.usefixtures("_log")
@pytest.mark.parametrize(
    ("rung", "warm_start", "starts", "frozen"),
    [
        ("chain", False, True, ["weather"]),
        ("relearn", True, True, ()),
        ("relearn", False, False, ()),
        ("relearn-row", True, True, ()),
    ],
)
def test_a_rung_says_where_learning_starts_and_what_keeps_still(
    build, tmp_path, rung, warm_start, starts, frozen
):
    asked = {}

    def note(experts, settings, **more):
        asked.update(more, tasks=experts.tasks, granularity=settings.granularity)

    merge = FAMILY.merge.model_copy(update={"warm_start": warm_start, "granularity": "tensor"})
    family = FAMILY.model_copy(update={"merge": merge})
    learn.fn(engine(learn=note), replace(build, rung=rung, family=family), tmp_path)

    assert asked["tasks"] == ("weather", "food")
    assert asked["granularity"] == ("row" if rung == "relearn-row" else "tensor")
    assert asked["frozen"] == frozen
    assert asked["work"] == tmp_path
    if starts:
        assert asked["start"].tasks == ("weather",)
        assert all(torch.all(value == 0.5) for value in asked["start"].values.values())
        assert set(asked["heads"]) == {"weather"}
    else:
        assert asked["start"] is None


def test_a_model_that_is_written_already_is_kept(build, tmp_path):
    merged = write_model.fn(build, learned(build, 0.3), tmp_path)
    before = (merged.model / "model.safetensors").stat().st_mtime_ns

    assert write_model.fn(build, learned(build, 0.3), tmp_path) == merged
    assert (merged.model / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("seconds", "candidate", "verdict", "told"),
    [
        ((1.0,), 785, "passed", "every task"),
        ((3.0, 3.0, 1.0), 785, "passed", "every task"),
        ((3.0, 3.0, 2.5), 785, "failed", "2.50 times as long"),
        ((1.0,), 600, "failed", "weather"),
    ],
    ids=["good", "disturbed", "slow", "worse"],
)
def test_a_candidate_is_judged_by_its_answers_and_its_speed(
    build, tmp_path, seconds, candidate, verdict, told
):
    merged = write_model.fn(build, learned(build, 0.3), tmp_path)
    scores = [
        task_scores("weather", candidate=candidate),
        task_scores("food", role="new", champion=705),
    ]
    measured = iter(seconds)
    timed = engine(time_answers=lambda *_: ([next(measured)], [1.0]))
    report, contract = judge.fn(timed, build, merged, scores, rungs=2)

    assert report.verdict == verdict
    assert contract.passed
    assert report.rungs == 2
    assert verdict == "passed" or told in " ".join(report.reasons)


def test_a_decision_that_lacks_a_task_does_not_keep_its_contract(build, tmp_path):
    merged = write_model.fn(build, learned(build, 0.3), tmp_path)
    report, contract = judge.fn(
        engine(time_answers=lambda *_: ([1.0], [1.0])), build, merged, [task_scores("weather")], 1
    )

    assert not contract.passed
    assert report.verdict == "failed"
    assert any("one row for each of the 2 tasks" in reason for reason in report.reasons)


def test_a_pulled_expert_becomes_a_member_with_its_record(base, expert):
    version = ExpertVersion(
        "f-weather", 3, "s3://b/weather", ExpertTags(task="weather", releases=2)
    )
    pulled = Pulled(version, "s3://b/weather", expert("weather"), "digest")

    given = engine(prove=lambda *_, **__: ())
    looked_at = preflight.fn(FAMILY, given, Base(base, "digest-of-base"), pulled)

    assert looked_at.record == MergedExpert(
        task="weather", name="f-weather", version=3, source="s3://b/weather", digest="digest"
    )
    assert looked_at.contract.passed
    assert looked_at.releases == 2
    assert isinstance(looked_at.expert.split.gate, Examples)


def test_the_report_tells_what_was_merged_onto_what_and_links_to_the_experts(build, tmp_path):
    merged = write_model.fn(build, learned(build, 0.3), tmp_path)
    gate = {m.task: len(m.expert.split.gate) for m in build.members}
    keys = {m.task: m.expert.split.gate.keys for m in build.members}
    scores = [
        replace_keys(
            task_scores(task, n=count, base=10, expert=80, candidate=79, champion=70), keys
        )
        for task, count in gate.items()
    ]
    report, contract = judge.fn(
        engine(time_answers=lambda *_: ([1.0], [1.0])), build, merged, scores, rungs=1
    )

    folder = write_report.fn(
        build, learned(build, 0.3), scores, report, contract, merged, "http://mlflow"
    )

    page = (folder / "report.html").read_text()
    assert "relearn: food" in page
    assert "version 1" in page
    assert "http://mlflow/#/models/f-food/versions/1" in page
    assert build.key in page


def replace_keys(scores, keys):
    sheets = {
        name: replace(getattr(scores, name), keys=keys[scores.task])
        for name in ("base", "expert", "candidate", "champion")
    }
    return replace(scores, **sheets)


def test_a_device_that_is_not_there_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(Unavailable, match="no CUDA device"):
        choose_device("cuda")
