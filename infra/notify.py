"""Notifications to the targets of a family file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import httpx
from prefect.blocks.abstract import NotificationBlock

from infra.families import Family, Target

Event = Literal["needs-review", "promoted", "bounced", "rolled-back", "audit-failed"]
_TIMEOUT = 10.0  # seconds a target may take
_TRIES = 3


@dataclass(frozen=True)
class Notice:
    """One thing that people should know."""

    event: Event
    family: str
    subject: str
    text: str


def send(family: Family, notice: Notice) -> Iterator[tuple[str, str]]:
    """Sends a notice to every target; yields (target, fault) for each that could not be reached."""
    with httpx.Client(timeout=_TIMEOUT, transport=httpx.HTTPTransport(retries=_TRIES)) as client:
        for number, target in enumerate(family.notify, start=1):
            try:
                _send(client, target, notice)
            except Exception as error:  # noqa: BLE001 - whatever a target does must not stop a merge
                # Addresses of chat webhooks are secrets, so a target is named by its place only.
                yield f"target {number} of {family.name}", type(error).__name__


def _send(client: httpx.Client, target: Target, notice: Notice) -> None:
    if target.webhook is not None:
        client.post(str(target.webhook), json=asdict(notice)).raise_for_status()
    if target.prefect_block is not None:
        block: Any = NotificationBlock.load(target.prefect_block)
        block.notify(notice.text, subject=notice.subject)
