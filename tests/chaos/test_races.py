"""Many processes decide at the same moment: one wins each entry of the log, all others are told so."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from infra.errors import Conflict
from infra.storage.promotions import Promotion, PromotionLog
from infra.storage.store import S3Uri, connect_store
from tests.chaos.kill import DEFECT, trial
from tests.stories.world import FAMILY

pytestmark = pytest.mark.chaos

WRITERS = 100
PROCESSES = 40 if "CHAOS" in os.environ else 5
COMMANDS = [
    f"approve {FAMILY} 2 --reason because",
    f"rollback {FAMILY} --to 1",
    f"reject {FAMILY} 2 --reason because",
    f"freeze {FAMILY} --reason because",
    f"thaw {FAMILY} --reason because",
]


@pytest.mark.parametrize(("begin", "promotion"), [("candidate", "review"), ("two", "auto")])
def test_of_people_who_decide_at_once_each_is_told_what_came_of_it(
    world, saved, begin, promotion, table
):
    with trial(world, saved(begin), promotion=promotion) as run:
        commands = [COMMANDS[n % len(COMMANDS)] for n in range(PROCESSES)]
        said = run.all_at_once(commands)
        run.check()
        for words in said:
            assert ">" in words, "somebody was told nothing"
            assert DEFECT not in words, words
        run.tester.types(f"thaw {FAMILY}")
        run.ends()
    table(f"decisions at one moment, {begin}", PROCESSES, "one wins each entry; all are told")


@pytest.mark.e2e
@pytest.mark.skipif("CHAOS" not in os.environ, reason="`make chaos` runs it")
def test_of_a_hundred_writers_one_wins_each_entry_of_the_log_on_the_real_s3(stack, table):
    store, folder = connect_store(stack), S3Uri("supermerge", "races/promotions")
    log = PromotionLog(store, folder)
    last: Promotion | None = None
    for _ in range(3):

        def append(number: int, after: Promotion | None = last) -> Promotion | None:
            try:
                return log.append(
                    after,
                    version=number,
                    location="s3://supermerge/races/merged/1",
                    manifest_sha256=f"{number:064x}",
                    action="promote",
                    decided_by=f"writer {number}",
                    reason="",
                    run_id=str(number),
                    time=datetime.now(UTC),
                )
            except Conflict:
                return None

        with ThreadPoolExecutor(WRITERS) as pool:
            entries = [entry for entry in pool.map(append, range(WRITERS)) if entry]
        assert len(entries) == 1
        last = log.newest()
        assert last == entries[0]
    assert [entry.sequence for entry in log.entries()] == [1, 2, 3]
    table("writers of one entry on SeaweedFS", 3 * WRITERS, "one wins, the others get Conflict")
