from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from merging.errors import InvalidInput
from merging.experts.examples import read_table, split_examples
from merging.kinds import ModelKind

KIND = ModelKind.TEXT_CLASSIFIER
LABELS = ("no", "yes")


def table(count: int = 200) -> pd.DataFrame:
    return pd.DataFrame(
        {"text": [f"row {i}" for i in range(count)], "label": [LABELS[i % 2] for i in range(count)]}
    )


def test_a_row_always_falls_on_the_same_side() -> None:
    all_rows = split_examples(table(), KIND, LABELS)
    reordered = split_examples(table().iloc[::-1], KIND, LABELS)
    assert all_rows == reordered
    fewer = split_examples(table(100), KIND, LABELS)
    assert set(fewer.gate.keys) <= set(all_rows.gate.keys)


def test_the_sides_have_no_row_in_common_even_if_the_table_repeats_one() -> None:
    rows = table(10)
    rows["split"] = "gate"
    again = rows.assign(split="calibration")
    split = split_examples(pd.concat([rows, again]), KIND, LABELS)
    assert not set(split.gate.keys) & set(split.calibration.keys)
    assert len(split.gate) == 10


def test_labels_come_by_name_or_index() -> None:
    by_index = table().assign(label=[i % 2 for i in range(200)])
    assert split_examples(by_index, KIND, LABELS) == split_examples(table(), KIND, LABELS)


def test_unlabelled_rows_may_calibrate_but_not_gate() -> None:
    rows = table(4).assign(split="calibration", label=[None, "yes", None, "no"])
    assert split_examples(rows, KIND, LABELS).calibration.targets.count(None) == 2
    with pytest.raises(InvalidInput, match="a label on every gate example"):
        split_examples(rows.assign(split="gate"), KIND, LABELS)


@pytest.mark.parametrize(
    "change",
    [
        {"label": "maybe"},
        {"label": 7},
        {"label": 0.5},
        {"text": ""},
        {"text": 3},
        {"split": "test"},
    ],
)
def test_a_wrong_value_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        split_examples(table(3).assign(**change), KIND, LABELS)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_tables_are_read_and_damaged_ones_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".jsonl":
        table(3).to_json(path, orient="records", lines=True)
    else:
        table(3).to_parquet(path)
    assert list(read_table(path)["text"]) == ["row 0", "row 1", "row 2"]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InvalidInput, match="rows"):
        read_table(path)


def test_an_image_path_may_not_leave_the_table(tmp_path: Path) -> None:
    path = tmp_path / "inside" / "rows.jsonl"
    path.parent.mkdir()
    path.write_text('{"image": "../secret.png", "label": 0}\n')
    (tmp_path / "secret.png").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="beside the table"):
        read_table(path)
