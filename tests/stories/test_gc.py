"""What nothing needs any more is removed from the object store, and nothing else, whatever happens."""

from __future__ import annotations

import os
import re
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from inline_snapshot import snapshot

import flows.gc
from infra.storage.folder import FolderStore
from infra.storage.manifest import find_whole
from infra.storage.store import S3Uri
from tests.stories.tester import Killed
from tests.stories.world import FAMILY

pytestmark = pytest.mark.family(promotion="review")
CONTENT = "c" * 64
A_WHILE = 2 * 24 * 3600  # Seconds.


def upload(queue, digest, *, task="sport"):
    """An expert's files as `register` leaves them behind when it is killed, two days ago."""
    folder = S3Uri("models", f"{FAMILY}/experts/{task}/{digest}")
    source = S3Uri("models", "uploads/weather")
    (lies,) = {item.uri.key.split("/")[2] for item in queue.queue.store.list(source)}
    for item in queue.queue.store.list(source / lies):
        queue.queue.store.write(folder / item.path, queue.queue.store.read(item.uri))
    age(f"experts/{task}/{digest}")
    return folder


def age(path, seconds=A_WHILE):
    """As if it had been written long ago."""
    root = Path(os.environ["SUPERMERGE_STORE_DIR"]) / "models" / FAMILY
    for file in (root / path).rglob("*"):
        os.utime(file, (time.time() - seconds,) * 2)


def stored(queue):
    return {item.path for item in queue.queue.store.list(queue.queue.family.root)}


def all_that_is_needed_is_whole(queue):
    """Every model of the log, every candidate that waits, and the experts that they are made of."""
    behind = queue.queue
    models = [S3Uri.parse(e.location) for e in behind.promotions.entries()]
    waiting = behind.registry.merged.of(FAMILY)
    models += [v.location for v in waiting if v.status == "candidate"]
    for location in models:
        manifest = find_whole(behind.store, location)
        assert manifest, location
        for expert in manifest.experts:
            assert behind.store.list(S3Uri.parse(expert.source)), expert.source
    return True


@pytest.fixture
def full(candidate):
    """Version 2 with food was followed by 3 with food and sport, which is deployed; an upload broke off."""
    candidate.land("sport", 90)
    candidate.sweep()
    candidate.types("approve reviews 3")
    upload(candidate, CONTENT)
    candidate.seen()
    return candidate


def test_what_nothing_needs_is_named_first_and_removed_after_its_days(full):
    before = stored(full)
    assert full.types("gc reviews --dry-run") == snapshot("""\
> merged/SHA256 (0.1 MB), a candidate built on promotion 1 and never deployed. Is removed from
    TIME UTC on.
> experts/sport/SHA256 (0.0 MB), an expert without a version in MLflow. Is removed from TIME UTC
    on.
> answers/SHA256.json (0.1 MB), answers of a model that is not needed. Is removed from TIME UTC
    on.\
""")
    assert stored(full) == before
    assert full.types("gc reviews") == snapshot("""\
log: removed 0 of 3 (0.0 MB)
> merged/SHA256 (0.1 MB), a candidate built on promotion 1 and never deployed. Is removed from
    TIME UTC on.
> experts/sport/SHA256 (0.0 MB), an expert without a version in MLflow. Is removed from TIME UTC
    on.
> answers/SHA256.json (0.1 MB), answers of a model that is not needed. Is removed from TIME UTC
    on.\
""")
    assert stored(full) == before | {"unneeded.json"}
    assert full.types("gc reviews --days 0") == snapshot("""\
log: removed 3 of 3 (0.2 MB)
> merged/SHA256 (0.1 MB), a candidate built on promotion 1 and never deployed. Removed.
> experts/sport/SHA256 (0.0 MB), an expert without a version in MLflow. Removed.
> answers/SHA256.json (0.1 MB), answers of a model that is not needed. Removed.\
""")
    gone = before - stored(full)
    assert {re.sub("[0-9a-f]{64}.*", "…", path) for path in gone} == snapshot(
        {"answers/…", "attempts/…", "experts/sport/…", "merged/…"}
    )
    assert all_that_is_needed_is_whole(full)
    assert full.types("gc reviews --days 0") == snapshot("""\
log: removed 0 of 0 (0.0 MB)
> Everything that is stored of reviews is needed.\
""")
    assert full.types("audit reviews").count("✓") == 6


def test_what_waits_or_is_deployed_or_was_just_uploaded_is_needed(candidate):
    upload(candidate, CONTENT)
    age("experts", 3600)
    age("merged")
    assert candidate.types("gc reviews --days 0") == snapshot("""\
log: removed 0 of 0 (0.0 MB)
> Everything that is stored of reviews is needed.\
""")


def test_killed_before_any_removal_it_leaves_nothing_half_there_and_goes_on(full, monkeypatch):
    delete, dead = FolderStore.delete, set()

    def dies_once(store, uri):
        if uri not in dead:
            dead.add(uri)
            raise Killed(str(uri))
        delete(store, uri)

    monkeypatch.setattr(FolderStore, "delete", dies_once)
    while "killed" in full.types("gc reviews --days 0"):
        assert all_that_is_needed_is_whole(full)
    assert len(dead) > 10
    assert full.types("gc reviews --days 0") == snapshot("""\
log: removed 0 of 0 (0.0 MB)
> Everything that is stored of reviews is needed.\
""")
    full.land("travel", 90)
    full.sweep()
    full.types("approve reviews 4")
    assert full.queue.promotions.newest().version == 4


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda q: q.types("rollback reviews"), "Version 1 is deployed"),
        (
            lambda q: (q.tag(FAMILY, 2, "merge.status", "candidate"), q.types("approve reviews 2")),
            "was built on promotion 1",
        ),
        (
            lambda q: (q.land("travel", 90), q.sweep(), q.types("approve reviews 4")),
            "Promoted (3)",
        ),
        (
            lambda q: q.register("sport", S3Uri("models", f"{FAMILY}/experts/sport/{CONTENT}")),
            "ModelVersion",
        ),
    ],
    ids=["a rollback", "an approval of what goes", "a merge", "a registration of what goes"],
)
def test_whatever_happens_before_a_removal_nothing_needed_goes(full, monkeypatch, act, words):
    delete, said = FolderStore.delete, []
    # As where the process was paused until its turn had ended.
    monkeypatch.setattr(flows.gc, "one_at_a_time", nullcontext)

    def late(store, uri):
        monkeypatch.setattr(FolderStore, "delete", delete)
        said.append(str(act(full)))
        delete(store, uri)

    monkeypatch.setattr(FolderStore, "delete", late)
    full.types("gc reviews --days 0")
    assert words in said[0]
    assert all_that_is_needed_is_whole(full)
    full.sweep()
    assert full.types("audit reviews").count("✓") == 6


def test_a_rejected_expert_goes_and_says_so_and_comes_back_by_registering_it_again(deployed):
    folder = upload(deployed, CONTENT)
    deployed.register("sport", folder)
    deployed.tag(f"{FAMILY}-sport", 1, "merge.status", "held")
    assert deployed.types("gc reviews --days 0") == snapshot("""\
sport/1: – → waiting
log: removed 0 of 0 (0.0 MB)
> Everything that is stored of reviews is needed.\
""")
    deployed.tag(f"{FAMILY}-sport", 1, "merge.status", "rejected")
    deployed.tag(f"{FAMILY}-sport", 1, "merge.reason", "It is no better than its base.")
    assert deployed.types("gc reviews --days 0") == snapshot("""\
sport/1 (rejected): It is no better than its base. Its files were removed: to have it tried
    again, register it again.
log: removed 1 of 1 (0.0 MB)
> experts/sport/SHA256 (0.0 MB), a rejected expert. Removed.\
""")
    assert deployed.queue.store.list(folder) == ()
    assert deployed.types("gc reviews --days 0") == snapshot("""\
log: removed 0 of 0 (0.0 MB)
> Everything that is stored of reviews is needed.\
""")
    deployed.types("release reviews-sport/1")
    assert deployed.sweep() == snapshot("""\
log: reviews: sport bounced: source of reviews-sport/1: expected the files of an expert, found
    nothing below s3://models/reviews/experts/sport/SHA256. Register it again with `supermerge
    register`.
notice bounced: reviews: sport bounced: source of reviews-sport/1: expected the files of an
    expert, found nothing below s3://models/reviews/experts/sport/SHA256. Register it again with
    `supermerge register`.
sport/1: waiting → rejected: 〃
> sport: bounced. 〃\
""")
