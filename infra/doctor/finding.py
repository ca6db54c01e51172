"""What a check found, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from infra.faults import explained
from merging.errors import Discrepancy

Verdict = Literal["ok", "worth knowing", "fault"]
Check = Callable[[], Iterator["Finding"]]
# Seconds by which two clocks may differ: they do so everywhere; beyond the second, messages are refused.
_SOME, _TOO_MUCH = 60, 300


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        found: What is so, as a sentence.
        verdict: Whether that is right.
        remedy: What to do, as a sentence; empty where nothing is.
    """

    check: str
    found: str
    verdict: Verdict = "ok"
    remedy: str = ""


def carried_out(name: str, check: Check) -> Iterator[Finding]:
    """What a check finds; an error that a server or a disk causes is a fault that it found."""
    try:
        yield from check()
    except Exception as error:
        told = explained(error)
        if told is None:
            raise
        yield Finding(name, *_told(told))


def compare_clocks(name: str, theirs: datetime, ours: datetime) -> Iterator[Finding]:
    """A finding where two clocks differ by more than they should."""
    apart = abs((theirs - ours).total_seconds())
    if apart > _SOME:
        words = f"Its clock and the one of this machine differ by {apart:,.0f} seconds."
        verdict: Verdict = "fault" if apart > _TOO_MUCH else "worth knowing"
        yield Finding(f"{name}: clock", words, verdict, "Let NTP set the clocks of both.")


def _told(error: Exception) -> tuple[str, Verdict, str]:
    if isinstance(error, Discrepancy):
        found = f"{error.where}: expected {error.expected}, found {error.found}"
        return found, "fault", error.remedy
    reason, remedy = getattr(error, "reason", str(error)), getattr(error, "remedy", "")
    return reason, "fault", remedy
