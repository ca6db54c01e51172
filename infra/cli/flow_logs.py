"""How flows that a command runs are shown: as in Prefect, but without tracebacks."""

from __future__ import annotations

import copy
import logging

from prefect.logging.handlers import PrefectConsoleHandler


class ConsoleHandler(PrefectConsoleHandler):
    """The command says what failed in a sentence, and Prefect's page of the run has the traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """Shows the message alone; other handlers get the record as it is."""
        shown = copy.copy(record)
        shown.exc_info = shown.exc_text = None
        super().emit(shown)
