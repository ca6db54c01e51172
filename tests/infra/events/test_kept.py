"""However many ask, and however long the servers take, one question at a time is put to them."""

from __future__ import annotations

import asyncio

import pytest

from infra.events.kept import Kept


def test_many_who_ask_at_once_make_one_question() -> None:
    asked = []

    async def ask() -> int:
        asked.append(len(asked))
        await asyncio.sleep(0)
        return len(asked)

    async def story() -> list[int]:
        kept = Kept(ask, 0, seconds=60)
        return [*await asyncio.gather(*(kept() for _ in range(100))), await kept()]

    assert asyncio.run(story()) == [1] * 101


def test_a_question_that_hangs_keeps_nobody_waiting_and_is_not_put_again() -> None:
    asked = []

    async def story() -> tuple[list[int], int]:
        answer = asyncio.Event()

        async def ask() -> int:
            asked.append(1)
            await answer.wait()
            return 7

        kept = Kept(ask, 0, seconds=0, patience=0.01)
        early = [await kept(), await kept()]
        answer.set()
        return early, await kept()

    assert asyncio.run(story()) == ([0, 0], 7)
    assert len(asked) == 1


def test_what_goes_wrong_in_it_is_raised() -> None:
    async def ask() -> int:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        asyncio.run(Kept(ask, 0, seconds=60)())
