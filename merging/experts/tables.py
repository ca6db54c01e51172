"""Examples tables as files: Parquet, JSON Lines or CSV becomes columns of plain Python values.

What a file cannot say about its values goes along in the table's `attrs`:

* `as_written`: numbers and missing values have no type of their own (CSV), so `1` may be a text.
* `class_names`: the label names by index that the datasets library wrote beside the column `label`.
"""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from merging.errors import InvalidInput
from merging.experts.table_names import SEPARATORS, SUFFIXES
from merging.jsonfile import parse_json
from merging.kinds import ModelKind

AS_WRITTEN = "as_written"
CLASS_NAMES = "class_names"
MAXIMUM_ROWS = 1_000_000
MAXIMUM_BYTES = 4 << 30  # What a table's values may take, images included.
_LONGEST_LINE = 16 << 20
_BATCH = 1024
_KNOWN = {"split"} | {
    column
    for kind in ModelKind
    for column in (kind.input_column, kind.target_column, kind.pair_column)
    if column
}


def read_table(path: Path) -> pd.DataFrame:
    """An examples table; images given as relative paths are read in as bytes.

    Columns that no kind of model reads are there without their content.

    Raises:
        InvalidInput: Another format, a malformed or oversized file, or an image path that is missing
            or leaves the table's folder.
    """
    path = Path(path)
    table = _read(path)
    if "image" in table.columns:
        table["image"] = pd.Series(list(_images(table["image"], path)), dtype=object)
    return table


def image_files(path: Path) -> tuple[Path, ...]:
    """The image files beside a table that it refers to, each once.

    Raises:
        InvalidInput: As :func:`read_table` does.
    """
    table = _read(path)
    if "image" not in table.columns:
        return ()
    found = (_image_file(value, path, n) for n, value in enumerate(table["image"], 1))
    return tuple(dict.fromkeys(file for file in found if file is not None))


def _read(path: Path) -> pd.DataFrame:
    try:
        table = _by_format(path)
        if len(table) > MAXIMUM_ROWS:
            raise ValueError(_too_many(len(table)))
    except (OSError, ValueError, TypeError, csv.Error, pa.ArrowException) as error:
        raise InvalidInput(
            where=str(path),
            expected=f"an examples table as {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
            found=_sentence(error),
            remedy="Write it with pandas (to_parquet, or to_json(orient='records', lines=True)).",
        ) from error
    return table


def _by_format(path: Path) -> pd.DataFrame:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a file ending in {path.suffix!r}")
    if path.stat().st_size > MAXIMUM_BYTES:
        raise ValueError(f"a file of {path.stat().st_size:,} bytes")
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix in SEPARATORS:
        return _separated(path, SEPARATORS[path.suffix])
    return _json_lines(path)


def _parquet(path: Path) -> pd.DataFrame:
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows > MAXIMUM_ROWS:
            raise ValueError(_too_many(file.metadata.num_rows))
        schema = file.schema_arrow
        twice = {name for name, count in Counter(schema.names).items() if count > 1}
        if twice:
            raise ValueError(f"several columns of one name: {sorted(twice)[:5]}")
        known = [name for name in schema.names if name in _KNOWN]
        values: dict[str, list[Any]] = {name: [] for name in known}
        size = rows = 0
        # A hostile file may unpack to far more than it says, so it is read a little at a time.
        for batch in file.iter_batches(batch_size=_BATCH, columns=known, use_threads=False):
            size, rows = size + batch.nbytes, rows + batch.num_rows
            if size > MAXIMUM_BYTES or rows > MAXIMUM_ROWS:
                raise ValueError(f"more than {MAXIMUM_ROWS:,} rows or {MAXIMUM_BYTES:,} bytes")
            for name in known:
                values[name] += batch.column(name).to_pylist()
        table = _frame(schema.names, values, file.metadata.num_rows)
        table.attrs[CLASS_NAMES] = _class_names(schema)
        return table


def _class_names(schema: pa.Schema) -> list[str] | None:
    """The names that the datasets library wrote for a `ClassLabel` in the column `label`."""
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return None
    described: Any = parse_json(written)
    for key in ("info", "features", "label", "names"):
        described = described.get(key) if isinstance(described, dict) else None
    return [str(name) for name in described] if isinstance(described, list) else None


def _json_lines(path: Path) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for number, line in _lines(path):
        if not line.strip(" \t\r\n"):
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"in line {number}, column {error.colno}: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"in line {number}: {_sentence(error)}") from error
        if not isinstance(row, dict):
            raise ValueError(f"in line {number} no object with columns, but {line!r:.80}")
        if len(rows) == MAXIMUM_ROWS:
            raise ValueError(_too_many(len(rows) + 1))
        names |= dict.fromkeys(row)
        rows.append({name: row[name] for name in row if name in _KNOWN})
    columns = {name: [row.get(name) for row in rows] for name in names if name in _KNOWN}
    return _frame(list(names), columns, len(rows))


def _separated(path: Path, separator: str) -> pd.DataFrame:
    reader = csv.reader((line for _, line in _lines(path)), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        if not header or len(set(header)) < len(header):
            raise ValueError(f"a first line that does not name every column once: {header!r:.120}")
        values: dict[str, list[Any]] = {name: [] for name in header if name in _KNOWN}
        places = [(place, values[name]) for place, name in enumerate(header) if name in _KNOWN]
        rows = 0
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(f"{len(row)} values where the first line names {len(header)}")
            rows += 1
            if rows > MAXIMUM_ROWS:
                raise ValueError(_too_many(rows))
            for place, column in places:
                column.append(row[place] or None)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"in line {reader.line_num}: {_sentence(error)}") from error
    table = _frame(header, values, rows)
    table.attrs[AS_WRITTEN] = True
    return table


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Number and text of each line. Only \n ends one: other separators may stand in a text."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise ValueError(f"a line {number} of more than {_LONGEST_LINE:,} bytes")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"bytes that are not UTF-8 in line {number}") from error


def _frame(names: list[str], values: dict[str, list[Any]], rows: int) -> pd.DataFrame:
    """Columns in the order of the file; no type is guessed, so a value stays what it is."""
    columns = {name: pd.Series(values.get(name, [None] * rows), dtype=object) for name in names}
    return pd.DataFrame(columns, index=pd.RangeIndex(rows))


def _images(values: pd.Series[Any], table: Path) -> Iterator[Any]:
    size = 0
    for number, value in enumerate(values, 1):
        file = _image_file(value, table, number)
        image = file.read_bytes() if file else _embedded(value)
        size += len(image) if isinstance(image, bytes) else 0
        if size > MAXIMUM_BYTES:
            raise _wrong_image(table, number, f"more than {MAXIMUM_BYTES:,} bytes of images")
        yield image


def _embedded(value: Any) -> Any:
    """An image as the datasets library writes it has its bytes in a dictionary."""
    return value.get("bytes") if isinstance(value, dict) else value


def _image_file(value: Any, table: Path, number: int) -> Path | None:
    """The file that an image is given by; None where the table has its bytes, or nothing."""
    if isinstance(value, dict) and not value.get("bytes"):
        value = value.get("path")
    if not isinstance(value, str):
        return None
    folder = table.parent.resolve()
    # A file's name may have been written with composed letters and stored with decomposed ones.
    for form in (value, *(unicodedata.normalize(form, value) for form in ("NFC", "NFD"))):
        try:
            path = (folder / form).resolve()
            # An absolute path is the same file here, but none where the folder will be read next.
            if path.is_file() and folder in path.parents and not Path(form).is_absolute():
                return Path(os.path.normpath(folder / form))
        except (OSError, ValueError, RuntimeError):
            continue  # It is no path at all: too long, or with a NUL in it.
    raise _wrong_image(table, number, f"{value[:120]!r}")


def _wrong_image(table: Path, number: int, found: str) -> InvalidInput:
    return InvalidInput(
        where=str(table),
        expected="images as bytes, or as paths of files beside the table",
        found=f"{found} in row {number}",
        remedy="Put the images' bytes into the table.",
    )


def _too_many(rows: int) -> str:
    return f"{rows:,} rows, where {MAXIMUM_ROWS:,} are the most"


def _sentence(error: BaseException) -> str:
    """The first line of what a library says."""
    return str(error).split("\n", 1)[0][:300] or type(error).__name__
