"""The moments of a run at which it may be killed, or at which something else may happen beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from mlflow import MlflowClient
from prefect import Task

from infra.storage.folder import FolderStore

_READS = ("list", "exists", "read", "download")
_WRITES = ("write", "create", "upload", "delete")
_RUN = re.compile(r"\b[0-9a-f]{32}\b")  # The id of a run in MLflow is another each time.
_CHANGES = ("create_", "set_", "delete_", "log_", "update_")


class Killed(BaseException):
    """The end of a run. Not an Exception, so nothing in a flow can handle it."""


class Points:
    """Counts what a run asks of its servers, before and after each time, and may end it there.

    Attributes:
        passed: The names of the moments since the last start.
    """

    def __init__(self) -> None:
        self.passed: list[str] = []
        self._at: int | None = None
        self._act: Callable[[str], None] = str
        self._dead = False

    def start(self, at: int | None = None, act: Callable[[str], None] = str) -> None:
        """Begins to count; does something once, at the moment of this number."""
        self.passed.clear()
        self._at, self._act, self._dead = at, act, False

    def kill(self, name: str) -> None:
        """Ends the run; what it does on its way out reaches no server."""
        self._dead = True
        raise Killed(name)

    def come(self, name: str) -> None:
        """Is told of each moment."""
        if self._dead:
            raise Killed(name)
        self.passed.append(name)
        if self._at is not None and len(self.passed) >= self._at:
            self._at = None
            self._act(name)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Is told of all that flows ask of the store, of MLflow and of Prefect's tasks."""
        changes = [n for n in dir(MlflowClient) if n.startswith(_CHANGES)]
        with ExitStack() as stack:
            for owner, names, after in (
                (FolderStore, _READS, False),
                (FolderStore, _WRITES, True),
                (MlflowClient, changes, True),
                (Task, ("__call__",), False),
            ):
                for name in names:
                    told = self._told(owner, name, after)
                    stack.enter_context(mock.patch.object(owner, name, told))
            yield

    def _told(self, owner: type, name: str, after: bool) -> Callable[..., Any]:
        real = getattr(owner, name)

        def call(this: Any, *args: Any, **more: Any) -> Any:
            first = args[0] if args else ""
            first = first.name if isinstance(first, Path) else first
            what = this.name if owner is Task else f"{name} {_RUN.sub('ID', str(first))}"
            self.come(f"before {what}")
            given = real(this, *args, **more)
            if after:
                self.come(f"after {what}")
            return given

        return call
