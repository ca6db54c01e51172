"""Logs that a machine reads: one JSON object a line, with the run, the family and the expert in it.

    SUPERMERGE_LOG_FORMAT=json

The fields that every line has are `time`, `level`, `logger` and `message`; a line that is about them also
has `run` (Prefect's flow run), `flow`, `step`, `family` and `expert` (`name/version`, several with a space
between). Where an error was raised, `exc_info` has its traceback.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter as Formatter

FAMILY: ContextVar[str] = ContextVar("family", default="")
"""The family that this process, or this thread, works for."""
_EXPERT: ContextVar[str] = ContextVar("expert", default="")
_NAMES = {
    "levelname": "level",
    "name": "logger",
    "flow_run_id": "run",
    "flow_name": "flow",
    "task_run_name": "step",
}
_RUN = "PREFECT__FLOW_RUN_ID"
"""Where Prefect's worker tells a process the flow run that it is started for."""
_LEFT_OUT = ("flow_run_name", "task_run_id", "task_name", "color_message", "worker_id")


class Named(Protocol):
    """Whatever is written as ``name/version``."""

    @property
    def ref(self) -> str:
        """As people write it."""


T = TypeVar("T", bound=Named)


@contextmanager
def about(*experts: Named) -> Iterator[None]:
    """What is logged meanwhile is about these experts."""
    before = _EXPERT.set(" ".join(expert.ref for expert in experts))
    try:
        yield
    finally:
        _EXPERT.reset(before)


def one_by_one(experts: Iterable[T]) -> Iterator[T]:
    """Each expert in turn; what is logged in the body of the loop is about it."""
    for expert in experts:
        with about(expert):
            yield expert


class JsonFormatter(Formatter):
    """One JSON object for each record."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes what a configuration of logging gives its formatters, and does without."""
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields=_NAMES,
            reserved_attrs=[*RESERVED_ATTRS, *_LEFT_OUT],
            timestamp="time",
            json_ensure_ascii=False,
        )

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Adds what the record itself does not know."""
        super().add_fields(log_data, record, message_dict)
        known = {
            "run": os.environ.get(_RUN),
            "family": FAMILY.get(),
            "expert": _EXPERT.get(),
        }
        for name, value in known.items():
            if value:
                log_data.setdefault(name, value)


def write_json() -> None:
    """Makes what the process logs from now on JSON."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())
