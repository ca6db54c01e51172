"""Tables as people have them: what is in the file is what is read, or it is said why not."""

from __future__ import annotations

import io
import json
import unicodedata
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merging.errors import InvalidInput
from merging.experts import tables
from merging.experts.examples import split_examples
from merging.experts.tables import image_files, read_table
from merging.kinds import ModelKind

TEXTS = [
    "plain",
    "line\u2028separator",
    "next\x85line",
    "page\x0cfeed",
    "two\nlines",
    'quo"ted, twice',
    "NA",
    "None",
    "null",
    "007",
    "\x00 nul",
    "grün 🐈",
]


def rows(path: Path, column: str = "text") -> list[object]:
    return list(read_table(path)[column])


@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_lines_keep_every_text(tmp_path, ascii_only):
    path = tmp_path / "examples.jsonl"
    table = pd.DataFrame({"text": TEXTS, "label": "a"})
    table.to_json(path, orient="records", lines=True, force_ascii=ascii_only)
    assert rows(path) == TEXTS


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_separated_values_keep_every_text(tmp_path, suffix):
    path = tmp_path / f"examples{suffix}"
    table = pd.DataFrame({"text": TEXTS, "label": "a"})
    table.to_csv(path, index=False, sep=tables.SEPARATORS[suffix])
    assert rows(path) == TEXTS


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
)
def test_parquet_keeps_every_text_however_it_is_stored(tmp_path, kind):
    path = tmp_path / "examples.parquet"
    pq.write_table(pa.table({"text": pa.array(TEXTS).cast(kind)}), path)
    assert rows(path) == TEXTS


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".csv"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_byte_order_marks_line_ends_and_blank_lines_are_no_content(tmp_path, suffix, mark, end):
    lines = [b"text,label", b"one,1", b"", b"two,2"]
    if suffix != ".csv":
        lines = [b'{"text": "one", "label": "1"}', b" ", b'{"text": "two", "label": "2"}']
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(mark + end.join(lines) + end)
    assert rows(path) == ["one", "two"]
    assert rows(path, "label") == ["1", "2"]


def test_what_is_empty_in_csv_is_missing_and_a_number_stays_as_it_is_written(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label,text_pair\n1.50,007,\n,NA,x\n")
    table = read_table(path)
    assert table.to_dict("list") == {
        "text": ["1.50", None],
        "label": ["007", "NA"],
        "text_pair": [None, "x"],
    }


def test_integers_with_gaps_stay_integers(tmp_path):
    path = tmp_path / "rows.parquet"
    label = pd.array([1, None, 2**60 + 1], dtype="Int64")
    pd.DataFrame({"text": ["a", "b", "c"], "label": label}).to_parquet(path)
    assert rows(path, "label") == [1, None, 2**60 + 1]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        (
            "a.jsonl",
            b'{"text": "a"}\n\n{"text": "b"} trailing\n',
            "in line 3, column 15: Extra data",
        ),
        ("a.jsonl", b'{"text": "a"}\n["b"]\n', "in line 2 no object"),
        ("a.jsonl", b"[" * 100_000, "in line 1: maximum recursion"),
        ("a.jsonl", b'{"label": ' + b"9" * 5_000 + b"}", "in line 1: Exceeds the limit"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "gr\xfcn"}\n', "not UTF-8 in line 2"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "not UTF-8 in line 1"),
        ("a.csv", b"text,label\na,b\n\xfc,b\n", "not UTF-8 in line 3"),
        ("a.csv", b"text,label\na,b\nc\n", "in line 3: 1 values where the first line names 2"),
        ("a.csv", b'text,label\na,b\n"c,d\n', "in line 3: unexpected end of data"),
        ("a.csv", b'text,label\n"c" d,e\n', "in line 2: "),
        ("a.csv", b"text,text\na,b\n", "does not name every column once"),
        ("a.csv", b"", "does not name every column once"),
        ("a.parquet", b"PAR1 and nothing else", "arquet"),
        ("a.xlsx", b"", "a file ending in '.xlsx'"),
        ("a.jsonl", b" " * (16 << 20) + b"{}", "more than 16,777,216 bytes"),
    ],
)
def test_a_damaged_file_is_refused_with_the_place(tmp_path, name, content, found):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=name) as refused:
        read_table(tmp_path / name)
    assert found in refused.value.found
    with pytest.raises(InvalidInput, match=name):
        image_files(tmp_path / name)


def test_parquet_that_unpacks_to_more_than_there_may_be_is_refused_early(tmp_path):
    path = tmp_path / "rows.parquet"
    long = pa.array(["x" * 1_000] * 5_000).dictionary_encode()
    pq.write_table(pa.table({"text": long.cast(pa.string())}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    with (
        mock.patch.object(tables, "MAXIMUM_BYTES", 3 << 20),
        pytest.raises(InvalidInput, match="more than"),
    ):
        read_table(path)
    with (
        mock.patch.object(tables, "MAXIMUM_ROWS", 4_999),
        pytest.raises(InvalidInput, match="5,000"),
    ):
        read_table(path)


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]), path)
    with pytest.raises(InvalidInput, match="several columns of one name"):
        read_table(path)


def test_columns_that_no_model_reads_are_named_but_not_read(tmp_path):
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"sentence": ["a"], "embedding": [[1.0, 2.0]], "label": [1]}).to_parquet(path)
    assert read_table(path).to_dict("list") == {
        "sentence": [None],
        "embedding": [None],
        "label": [1],
    }


def as_datasets_writes(path: Path, names: list[str], labels: list[int]) -> None:
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": names, "_type": "ClassLabel"},
    }
    table = pa.table({"text": [f"row {i}" for i in range(len(labels))], "label": labels})
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(described), path)


@pytest.mark.parametrize("described", ["[" * 100_000, '{"info": 1, "info": 2}', "\xff"])
def test_what_claims_to_be_of_the_datasets_library_is_read_within_bounds(tmp_path, described):
    path = tmp_path / "rows.parquet"
    table = pa.table({"text": ["a row"]}).replace_schema_metadata({"huggingface": described})
    pq.write_table(table, path)
    with pytest.raises(InvalidInput) as refusal:
        read_table(path)
    assert len(str(refusal.value)) < 700


def test_class_labels_of_the_datasets_library_settle_what_numbers_mean(tmp_path):
    path = tmp_path / "rows.parquet"
    as_datasets_writes(path, ["1", "2", "3"], [0, 1, 2] * 10)
    for names in (("1", "2", "3"), ("LABEL_0", "LABEL_1", "LABEL_2")):
        split = split_examples(read_table(path), ModelKind.TEXT_CLASSIFIER, names)
        assert set(split.gate.targets) == {0, 1, 2}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("2", "1", "3"), "class 0 is '1' in the table and '2' in the model"),
        (("1", "2"), "3 classes in the table, 2 in it"),
        (("LABEL_0", "LABEL_1"), "class 0"),
    ],
)
def test_class_labels_that_are_not_the_model_s_are_refused(tmp_path, names, found):
    path = tmp_path / "rows.parquet"
    as_datasets_writes(path, ["1", "2", "3"], [0, 1] * 10)
    with pytest.raises(InvalidInput, match=found):
        split_examples(read_table(path), ModelKind.TEXT_CLASSIFIER, names)


def test_images_come_as_bytes_as_datasets_writes_them_or_as_files(tmp_path):
    (tmp_path / "images").mkdir()
    names = ["cat (1).jpg", "IMG+1.png", "#3.png", unicodedata.normalize("NFD", "grün.png")]
    for name in names:
        (tmp_path / "images" / name).write_bytes(name.encode())
    written = [f"images/{unicodedata.normalize('NFC', name)}" for name in names]
    values = [{"bytes": None, "path": path} for path in written]
    values.append({"bytes": b"inside", "path": "not/there.png"})
    pq.write_table(pa.table({"image": values}), tmp_path / "rows.parquet")
    pd.DataFrame({"image": written}).to_csv(tmp_path / "rows.csv", index=False)
    files = [name.encode() for name in names]
    assert rows(tmp_path / "rows.parquet", "image") == [*files, b"inside"]
    assert rows(tmp_path / "rows.csv", "image") == files
    assert [file.name for file in image_files(tmp_path / "rows.csv")] == names


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/hostname", "missing.png", "x" * 5_000, "a\x00b", "", "."]
)
def test_an_image_is_a_file_in_the_table_s_folder(tmp_path, path):
    table = tmp_path / "inside" / "rows.jsonl"
    table.parent.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    table.write_text(json.dumps({"image": path, "label": 0}))
    with pytest.raises(InvalidInput, match=r"beside the table, found .* in row 1"):
        read_table(table)


def parquet_bytes() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), buffer)
    return buffer.getvalue()


GOOD = {
    ".parquet": parquet_bytes(),
    ".jsonl": b'{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n',
    ".csv": b'text,label\n"a",0\nb,1\n',
}


@st.composite
def damaged(draw) -> tuple[str, bytes]:
    suffix = draw(st.sampled_from(sorted(GOOD)))
    content = bytearray(GOOD[suffix])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=6))
    return suffix, draw(st.sampled_from([bytes(content), draw(st.binary(max_size=60))]))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged())
def test_any_bytes_are_a_table_or_are_refused(tmp_path, file):
    suffix, content = file
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    with suppress(InvalidInput):
        split_examples(read_table(path), ModelKind.TEXT_CLASSIFIER, ("a", "b"))
