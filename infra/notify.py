"""Notifications to the targets of a family file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import asdict, dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal

import httpx

from infra.families import Family, Target
from infra.tls import authorities

Event = Literal[
    "needs-review",
    "promoted",
    "bounced",
    "held",
    "rolled-back",
    "frozen",
    "thawed",
    "unseen",
    "run-failed",
    "stuck",
    "audit-failed",
]
_TIMEOUT = 10.0  # Seconds that a webhook may take to answer.
WAITS: Sequence[float] = (1.0, 4.0)  # Seconds that pass before each further try.
_PATIENCE = 60.0  # Seconds that a merge waits for all targets together.


@dataclass(frozen=True)
class Notice:
    """One thing that people should know.

    Attributes:
        event: What kind of thing happened.
        family: The family that it happened to.
        subject: It in a few words.
        text: What there is to say about it.
        about: What tells it from others of its kind; it is not sent.
    """

    event: Event
    family: str
    subject: str
    text: str
    about: str = ""

    @property
    def key(self) -> str:
        """The same key means the same event, of which people hear once."""
        return f"{self.event} {self.about}".strip()

    def body(self) -> dict[str, str]:
        """What a webhook gets."""
        return {name: value for name, value in asdict(self).items() if name != "about"}


def send(
    family: Family, notice: Notice, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[str, str]]:
    """Sends a notice to every target; yields (target, fault) for each that could not be reached.

    Args:
        family: Whose targets they are.
        notice: What they are told.
        clock: Gives seconds; measures the patience with all targets together.
    """
    # httpx logs every address, and the address of a chat webhook is a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    ended: SimpleQueue[tuple[int, str | None]] = SimpleQueue()
    targets = dict(enumerate(family.notify, start=1))
    deadline = clock() + _PATIENCE
    for number, target in targets.items():
        # A block is foreign code that may hang. As a daemon it cannot keep the process from ending.
        deliver = partial(_deliver, number, target, notice, ended)
        Thread(target=copy_context().run, args=(deliver,), daemon=True).start()
    faults: dict[int, str | None] = dict.fromkeys(targets, "it takes too long")
    with suppress(Empty):
        for _ in targets:
            number, fault = ended.get(timeout=max(0.0, deadline - clock()))
            faults[number] = fault
    for number, target in targets.items():
        if fault := faults[number]:
            block = f" (Prefect block {target.prefect_block})" if target.prefect_block else ""
            yield f"target {number} of {family.name}{block}", fault


def _deliver(
    number: int, target: Target, notice: Notice, ended: SimpleQueue[tuple[int, str | None]]
) -> None:
    """Tries a few times; puts what went wrong the last time, or None, into ``ended``."""
    fault: str | None = None
    for wait in (*WAITS, None):
        try:
            _send(target, notice)
        except Exception as error:  # noqa: BLE001 - whatever a target does must not stop a merge
            fault = _named(error)
            if wait is not None:
                time.sleep(wait)
        else:
            fault = None
            break
    ended.put((number, fault))


def _send(target: Target, notice: Notice) -> None:
    if target.webhook is not None:
        address = str(target.webhook)
        verify = authorities(address)
        httpx.post(address, json=notice.body(), timeout=_TIMEOUT, verify=verify).raise_for_status()
    if target.prefect_block is not None:
        import prefect.blocks.notifications  # noqa: F401 - so that Prefect knows its own blocks
        from prefect.blocks.core import Block

        block: Any = Block.load(target.prefect_block)
        with block.raise_on_failure():  # Otherwise some blocks fail without a word.
            block.notify(notice.text, subject=notice.subject)


def _named(error: Exception) -> str:
    """Names what went wrong, without the message, which may quote the address."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answered {error.response.status_code}"
    return type(error).__name__
