"""The page stands alone, shows what there is, and lets nothing from outside become markup."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.contracts import ContractResult, check_examples
from infra.report.curves import learning_curve
from infra.report.inputs import Flip, Member, ReportInputs, collect_flips
from infra.report.page import render_report
from infra.report.summary import gate_metrics, markdown_summary, summary_rows
from merging.experts.examples import Examples
from merging.gate import GatePolicy, GateReport
from merging.gate.decision import TaskScores, decide
from merging.kinds import ModelKind
from merging.learning.state import StepRecord
from merging.models.coefficients import Coefficients
from merging.models.outcomes import Outcomes
from merging.models.precision import Precision
from tests.merging.gate.chosen_answers import task_scores

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(1)> & "quoted" {{ 7 * 7 }}'


def task(name="reviews", role="old", candidate=345, champion=346, n=400) -> TaskScores:
    return task_scores(name, role, 250, 350, candidate, champion, n)


def passed() -> GateReport:
    return decide(GatePolicy(), [task(), task("tweets", "new", champion=250)])


def png() -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def broken_contract() -> ContractResult:
    """A label that the expert does not know, and that looks like markup."""
    texts = [f"review {i}" for i in range(300)]
    table = pd.DataFrame({"text": texts, "label": ["good"] * 299 + [HOSTILE]})
    result = check_examples(
        table, ModelKind.TEXT_CLASSIFIER, ("good",), GatePolicy(), task="reviews"
    )
    return replace(result, name=HOSTILE, warnings=(HOSTILE,))


def everything() -> ReportInputs:
    tasks = ("reviews", "tweets")
    names = ["embeddings.word.weight", "layer.2.a", "layer.10.a", "layer.10.b"]
    coefficients = Coefficients(tasks, {name: torch.full((2,), 0.3) for name in names})
    rows = Coefficients(("reviews",), {name: torch.full((1, 5), 0.5) for name in names})
    flips = [
        Flip(HOSTILE, HOSTILE, "good", HOSTILE),
        Flip(png(), "3", "3", "8"),
        Flip(b"<svg onload=alert(1)>", "3", "3", "8"),
        Flip(("premise " + HOSTILE, "hypothesis"), "yes", "yes", "no"),
        Flip("long " * 1000, "a", "a", "b"),
    ]
    return ReportInputs(
        report=passed(),
        family=HOSTILE,
        candidate=HOSTILE,
        champion="version 2",
        flips={"reviews": flips},
        coefficients=coefficients,
        champion_coefficients=rows,
        history=[
            StepRecord(0, {}, {"reviews": 1.0, "tweets": 1.2}),
            StepRecord(1, {"reviews": 0.9, "tweets": 1.1}, None),
            StepRecord(2, {"reviews": 0.8, "tweets": 1.0}, {"reviews": 0.8, "tweets": 1.0}),
        ],
        cosines={a: {b: 1.0 if a == b else -0.1 for b in tasks} for a in tasks},
        plan={"groups": [[["reviews", "tweets"]]], "peak_bytes": 3 << 20},
        members=[
            Member("reviews", HOSTILE, "d" * 64, "javascript:alert(1)", (HOSTILE,)),
            Member("tweets", "tweets/1", "e" * 64, "https://example.org/tweets"),
        ],
        champion_members=[Member("reviews", "reviews/1"), Member("gone", "gone/4")],
        settings={"steps": 60, "nested": {"seed": 0}},
        facts={"base": HOSTILE},
        contracts=[broken_contract()],
        links={"run": "https://example.org/run", "other": "data:text/html,x"},
        reproduce=["supermerge audit demo", HOSTILE],
    )


class Tags(HTMLParser):
    """Collects every tag and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_nothing_from_outside_becomes_markup(tmp_path):
    page = render_report(everything(), tmp_path).read_text()
    tags = Tags(page).found
    assert not {"script", "iframe", "object", "link", "base"} & {tag for tag, _ in tags}
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]
    assert "{{ 7 * 7 }}" in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(("lost", "shown"), [(0.54, True), (0.01, False)])
def test_a_change_that_is_lost_in_rounding_is_a_key_figure(tmp_path, lost, shown):
    precision = Precision("base", "bfloat16", lost)
    page = render_report(replace(everything(), precision=precision), tmp_path).read_text()
    words = "<b>54 %</b><span>of the merged change lost in rounding to bfloat16; write_dtype"
    assert (words in page) == shown
    assert json.loads((tmp_path / "report.json").read_text())["precision"]["lost"] == lost


def test_the_data_docs_load_nothing_and_escape_what_great_expectations_does_not(tmp_path):
    render_report(everything(), tmp_path)
    page = (tmp_path / "data-docs/index.html").read_text()
    tags = Tags(page).found
    assert {tag for tag, _ in tags} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "header", "section"),
        *("p", "b", "h1", "h2", "h3", "table", "tr", "th", "td", "span"),
    }
    assert not {name for _, attrs in tags for name in attrs} & {"src", "href", "onerror"}
    assert "&lt;script&gt;alert(1)" in page, "the label is shown, as text"
    assert "values must belong to this set: nothing." in page
    assert ">broken<" in page
    assert ">holds<" in page


def test_the_page_loads_nothing_and_links_only_to_the_web(tmp_path):
    tags = Tags(render_report(everything(), tmp_path).read_text()).found
    sources = [attrs["src"] for _, attrs in tags if "src" in attrs]
    assert len(sources) == 1
    assert sources[0].startswith("data:image/png;base64,")
    links = {attrs["href"] for _, attrs in tags if "href" in attrs}
    assert links == {
        "https://example.org/tweets",
        "https://example.org/run",
        "data-docs/index.html",
    }
    assert (tmp_path / "data-docs/index.html").is_file()
    page = (tmp_path / "report.html").read_text()
    assert "@import" not in page
    assert "url(" not in page


def test_the_learning_curve_starts_before_the_first_step_and_has_two_lines_a_task():
    curve = str(learning_curve(everything().history))
    assert curve.count("<polyline") == 4
    assert ">reviews<" in curve
    assert ">tweets<" in curve


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_a_learning_curve_of_any_height_has_a_few_round_values(loss):
    history = [StepRecord(0, {}, {"a": loss}), StepRecord(1, {"a": loss / 2}, {"a": loss / 2})]
    assert 2 <= str(learning_curve(history)).count('class="grid"') <= 9


def test_every_part_is_shown_when_it_is_there(tmp_path):
    page = render_report(everything(), tmp_path).read_text()
    for heading in (
        "Passed: this candidate may replace the deployed model",
        "Scores",
        "What decides",
        "Every number of the decision",
        "Negative flips",
        "What changed since the deployed model",
        "Coefficients by layer and expert",
        "Learning",
        "How alike the experts",
        "Data contracts",
        "Lineage",
        "Settings",
        "How to reproduce this",
    ):
        assert heading in page
    assert "Adds tweets (tweets/1)." in page
    assert "Drops gone (gone/4)." in page
    assert "Replaces reviews (reviews/1) by" in page
    assert "an image that cannot be read" in page


def test_drawings_are_well_formed(tmp_path):
    page = render_report(everything(), tmp_path).read_text()
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing


def test_layers_come_in_their_natural_order(tmp_path):
    page = render_report(everything(), tmp_path).read_text()
    places = [page.index(f">{layer}<") for layer in ("embeddings", "layer.2", "layer.10")]
    assert places == sorted(places)


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    one, two = (render_report(everything(), tmp_path / name) for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    for file in ("report.json", "data-docs/index.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_json_holds_the_decision(tmp_path):
    render_report(everything(), tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert GateReport.from_json(json.dumps(document["gate"])) == passed()
    assert len(document["gate"]["tasks"][0]["negative_flips"]) == 1


@pytest.mark.parametrize(
    ("scores", "headline"),
    [
        ([], "Failed"),
        ([task()], "Passed"),
        ([task(candidate=250)], "Failed"),
        ([task(champion=None)], "Failed"),
        ([task("first", "new", champion=None)], "Passed"),
        ([task(n=60)], "Failed"),
    ],
)
def test_a_report_renders_with_nothing_but_the_decision(scores, headline, tmp_path):
    report = decide(GatePolicy(), scores, rungs=2)
    page = render_report(ReportInputs(report=report, family="demo"), tmp_path).read_text()
    assert f"<h2>{headline}" in page
    assert all(reason.split(":")[0] in page for reason in report.reasons)
    assert markdown_summary(report)


def test_numbers_stay_beside_their_task_where_an_expert_gains_nothing(tmp_path):
    useless = task_scores("useless", "new", 350, 340, 345, 350, n=400)
    report = decide(GatePolicy(), [useless, task()])
    page = render_report(ReportInputs(report=report, family="demo"), tmp_path).read_text()
    chart = page[page.index('aria-label="Each number') :]
    height = re.search(r'y="([0-9.]+)" class="label" text-anchor="start">reviews<', chart)[1]
    kept = f"{100 * report.tasks[1].retention:.0f} %"
    assert f'y="{height}" class="value" text-anchor="start">{kept}<' in chart


def test_flips_come_with_their_content_and_label_names():
    examples = Examples(
        ModelKind.TEXT_CLASSIFIER, ("one", "two"), (0, 1), ("k1", "k2"), ("bad", "good")
    )
    before = Outcomes(("k1", "k2"), (0, 1), (0, 1))
    now = Outcomes(("k1", "k2"), (0, 0), (0, 1))
    (flip,) = collect_flips(("k2",), examples, now, before)
    assert flip == Flip("two", "good", "good", "bad")


def test_the_markdown_has_a_row_per_task_and_the_reasons():
    text = markdown_summary(passed(), "https://example.org/report")
    assert text.startswith("**Passed")
    assert sum(line.startswith("| ") for line in text.splitlines()) == 4
    assert "[Full report](https://example.org/report)" in text
    assert [row["task"] for row in summary_rows(passed())] == ["reviews", "tweets"]


@pytest.mark.parametrize(
    "words",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "![x](https://example.org/seen.png)",
        "a | b",
        "one\n\n# two",
        "\\[x](y)",
    ],
)
def test_no_sentence_becomes_markup_in_the_markdown(words):
    report = passed().model_copy(update={"warnings": (words,), "reasons": (words,)})
    text = markdown_summary(report).replace(r"\\", "")
    assert "\n- Warning: " in text
    assert not re.search(r"(?<!\\)[<>\[\]]", text)
    shown = text.partition("- Warning: ")[2]
    assert "\n" not in shown
    assert "|" not in shown.replace(r"\|", "")


@pytest.mark.parametrize("number", [1, 12, 60])
def test_the_markdown_fits_into_mlflow_and_the_worst_comes_first(number):
    scores = [
        task(f"task-number-{i}", candidate=250 if i == number - 1 else 345) for i in range(number)
    ]
    text = markdown_summary(decide(GatePolicy(), scores), "https://example.org/report")
    assert len(text) <= 5_000
    rows = [line for line in text.splitlines() if line.startswith("| task-number")]
    assert "failed" in rows[0]
    assert text.endswith("[Full report](https://example.org/report)")
    assert ("more tasks" in text) == (len(rows) < number)


def test_metrics_are_flat_finite_numbers():
    metrics = gate_metrics(passed())
    assert metrics["gate/passed"] == 1.0
    assert metrics["gate/reviews/candidate"] == pytest.approx(345 / 400)
    assert metrics["gate/reviews/negative_flips"] == 1.0
    assert all(np.isfinite(value) for value in metrics.values())
    assert gate_metrics(decide(GatePolicy(), [])) == {"gate/passed": 0.0}
