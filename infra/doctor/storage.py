"""The object store: that it is there, may be written to, and keeps what the queue relies on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

from infra.doctor.finding import Finding, compare_clocks
from infra.errors import Conflict, Refused, Unreadable
from infra.families import Family
from infra.settings import Settings
from infra.storage.s3 import S3Store
from infra.storage.store import ObjectStore, S3Uri, connect_store

WRITERS = 8
"""How many create the same object at once, to see that one does."""


def look_at_store(settings: Settings, families: list[Family]) -> Iterator[Finding]:
    """Whether the store lets us in, and what each family needs of it."""
    store = connect_store(settings)
    where = settings.store_dir or settings.s3_endpoint or "AWS"
    folders = {family.root for family in families} or {S3Uri(settings.bucket, "doctor")}
    for root in sorted(folders, key=str):
        yield from _look_at_folder(store, root)
    yield Finding("object store", f"{where} lets us list, write, read and delete.")
    if isinstance(store, S3Store):
        any_root = min(folders, key=str)
        yield from compare_clocks("object store", store.clock(any_root), datetime.now(UTC))
        yield from _look_at_checksums(store, settings, any_root)
    for family in families:
        yield from _look_at_family(store, family)


def _look_at_folder(store: ObjectStore, root: S3Uri) -> Iterator[Finding]:
    """Writes, lists, reads and deletes a small object; and creates another in a race."""
    place = root / "doctor" / uuid4().hex
    probe = place / "probe"
    store.write(probe, b"probe")
    try:
        if store.read(probe) != b"probe" or [o.uri for o in store.list(place)] != [probe]:
            raise Refused(f"{probe} was written, and is not there.", "Use another object store.")
        store.prove_create(root / "promotions")
        _race(store, place / "race")
        found = f"Of {WRITERS} writers below {root} one creates an object; the others are told so."
        yield Finding("conditional writes", found)
    finally:
        yield from _clean_up(store, place)


def _race(store: ObjectStore, uri: S3Uri) -> None:
    def create(number: int) -> bool:
        with suppress(Conflict):
            store.create(uri, str(number).encode())
            return True
        return False

    with ThreadPoolExecutor(WRITERS) as pool:
        won = sum(pool.map(create, range(WRITERS)))
    if won != 1:
        raise Refused(
            f"Of {WRITERS} writers that created {uri} at once {won} succeeded: a promotion would be lost.",
            "Use an object store with conditional writes, such as AWS S3 or SeaweedFS.",
        )


def _clean_up(store: ObjectStore, place: S3Uri) -> Iterator[Finding]:
    try:
        for item in store.list(place):
            store.delete(item.uri)
    except Unreadable as error:
        found = f"It may not delete: {error.reason} A few bytes stay below {place}."
        remedy = "Nothing for merges; what is no longer needed cannot be removed."
        yield Finding("object store: deleting", found, "worth knowing", remedy)


def _look_at_checksums(store: S3Store, settings: Settings, root: S3Uri) -> Iterator[Finding]:
    if settings.s3_checksum == "none":
        yield Finding("checksums", "Uploads carry none, as SUPERMERGE_S3_CHECKSUM says.")
    elif store.refuses_damage(root / "doctor" / uuid4().hex):
        found = (
            f"What arrives with another {settings.s3_checksum} than it was sent with is refused."
        )
        yield Finding("checksums", found)
    else:
        yield Finding(
            "checksums",
            "The server takes bytes that are not those of their checksum.",
            "worth knowing",
            "A damaged upload is noticed only when it is read, by its digest; use another server.",
        )


def _look_at_family(store: ObjectStore, family: Family) -> Iterator[Finding]:
    for bucket in family.expert_buckets:
        try:
            store.list(S3Uri(bucket, "doctor"))
        except Unreadable as error:  # The key may open no more of it than the experts' folders.
            yield Finding(f"family {family.name}", error.reason, "worth knowing", error.remedy)
    if store.list(family.base_uri):
        yield Finding(f"family {family.name}", f"Its base lies at {family.base}.")
    else:
        yield Finding(
            f"family {family.name}",
            f"There is no base at {family.base}.",
            "worth knowing",
            f"Put it there with `supermerge upload-base {family.name} FOLDER`.",
        )
