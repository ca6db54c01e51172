"""Looks for secrets wherever the stack leaves something: files, databases, objects, command lines."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psutil
from pydantic import SecretStr

from infra.settings import Settings
from infra.stack import stack_status
from infra.stack.part_files import identities_file
from infra.stack.state import read_state
from infra.state_file import state_file
from infra.storage.s3 import s3_client


def secrets_of(settings: Settings) -> dict[str, str]:
    """Every secret of a stack, by name."""
    state = read_state(settings.state_dir)
    assert state is not None
    kept = {name: value for name, value in state if isinstance(value, SecretStr)}
    return {name: value.get_secret_value() for name, value in kept.items()}


def find(settings: Settings, wanted: Mapping[str, str]) -> dict[str, list[str]]:
    """Where each of these texts stands in clear or in some encoding.

    The two files are left out that are there to keep secrets.
    """
    found: dict[str, list[str]] = {name: [] for name in wanted}
    kept = {state_file(settings.state_dir), identities_file(settings)}
    written = {name: forms(text) for name, text in wanted.items()}
    for where, content in _everything(settings, kept):
        for name, ways in written.items():
            if any(way in content for way in ways):
                found[name].append(where)
    return found


def forms(secret: str) -> set[bytes]:
    """How a secret may be written: in clear, in an address, in hex, in base64 wherever it begins there."""
    plain = secret.encode()
    encoded = {base64.b64encode(bytes(skip) + plain)[4 if skip else 0 : -4] for skip in range(3)}
    return {plain, quote(secret, safe="").encode(), plain.hex().encode(), *encoded}


def _everything(settings: Settings, kept: set[Path]) -> Iterator[tuple[str, bytes]]:
    for path in sorted(settings.state_dir.rglob("*")):
        if path.is_file() and path not in kept:
            yield str(path), path.read_bytes()
            if path.suffix == ".db":
                yield f"{path}, dumped", _dump(path)
    s3 = s3_client(settings)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=settings.bucket):
        for item in page.get("Contents", ()):
            body = s3.get_object(Bucket=settings.bucket, Key=item["Key"])["Body"].read()
            yield f"s3://{settings.bucket}/{item['Key']}", body
    for part in stack_status(settings.state_dir):
        process = psutil.Process(part.pid)
        for one in (process, *process.children(recursive=True)):
            yield f"the command line of {part.title}", json.dumps(one.cmdline()).encode()


def _dump(database: Path) -> bytes:
    """All rows as text, also of values that the file keeps in pieces."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return "\n".join(connection.iterdump()).encode(errors="replace")
