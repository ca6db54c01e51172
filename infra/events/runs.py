"""Flow runs as Prefect knows them: which have ended since the last look, and which are under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from infra.servers import prefect_server
from infra.settings import Settings

_PER_PAGE = 200  # The most that Prefect gives at once.
_OVERLAP = timedelta(minutes=2)
"""How far each look goes back behind the last: clocks differ, and Prefect writes an end down late."""
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
UNDER_WAY = ("PENDING", "RUNNING", "PAUSED")


class Flow(BaseModel):
    """A flow, as Prefect's API shows it; it shows more."""

    id: UUID
    name: str


class Run(BaseModel):
    """A flow run."""

    id: UUID
    flow_id: UUID
    parameters: Mapping[str, Any] = {}
    state_type: str


class Step(BaseModel):
    """A task run."""

    name: str
    flow_run_id: UUID | None
    total_run_time: float


T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Ended:
    """A flow run that has come to an end.

    Attributes:
        family: Whose it was.
        flow: The name of its flow.
        state: How it ended: completed, failed, crashed or cancelled.
        steps: The names of its tasks, in any order, and how many seconds each took.
    """

    family: str
    flow: str
    state: str
    steps: tuple[tuple[str, float], ...]


class Runs:
    """The flow runs of one Prefect server that belong to a family."""

    def __init__(self, settings: Settings, transport: httpx.BaseTransport | None = None) -> None:
        """Nothing has been looked at; what ended before now is not counted."""
        self._settings = settings
        self._server = prefect_server(settings.prefect_api)
        self._client = httpx.Client(
            base_url=settings.prefect_api,
            auth=settings.prefect_login,
            timeout=30,
            transport=transport,
        )
        self._since = datetime.now(UTC)
        self._seen: set[UUID] = set()
        self._flows: dict[UUID, str] = {}

    def ended(self) -> tuple[Ended, ...]:
        """Those that have ended since the last look.

        Raises:
            MergeQueueError: Prefect does not answer, or not as it should.
        """
        now = datetime.now(UTC)
        wanted = {
            "end_time": {"after_": self._since.isoformat()},
            "state": {"type": {"any_": ENDED}},
        }
        runs = {run.id: run for run in self._of_families(wanted)}
        fresh = {key: run for key, run in runs.items() if key not in self._seen}
        steps: dict[UUID, list[tuple[str, float]]] = {key: [] for key in fresh}
        if fresh:
            asked = {"flow_runs": {"id": {"any_": [str(key) for key in fresh]}}}
            for step in self._all("task_runs", Step, asked):
                if step.flow_run_id in steps:
                    # Prefect adds three letters to the name of a task.
                    name = step.name.rpartition("-")[0]
                    steps[step.flow_run_id].append((name, step.total_run_time))
        names = self._flow_names()
        found = tuple(
            Ended(
                family=run.parameters["family"],
                flow=names.get(run.flow_id, "unknown"),
                state=run.state_type.lower(),
                steps=tuple(steps[key]),
            )
            for key, run in fresh.items()
        )
        self._seen, self._since = set(runs), max(self._since, now - _OVERLAP)
        return found

    def under_way(self) -> Counter[tuple[str, str, str]]:
        """How many there are now, by family, flow and state."""
        wanted = {"state": {"type": {"any_": UNDER_WAY}}}
        names = self._flow_names()
        return Counter(
            (run.parameters["family"], names.get(run.flow_id, "unknown"), run.state_type.lower())
            for run in self._of_families(wanted)
        )

    def _of_families(self, wanted: Mapping[str, Any]) -> Iterator[Run]:
        families = self._settings.family_names()
        for run in self._all("flow_runs", Run, {"flow_runs": wanted}):
            if run.parameters.get("family") in families:
                yield run

    def _flow_names(self) -> dict[UUID, str]:
        return {flow.id: flow.name for flow in self._all("flows", Flow, {})}

    def _all(self, what: str, kind: type[T], asked: Mapping[str, Any]) -> Iterator[T]:
        """Every object that a filter selects, page by page."""
        offset, more = 0, True
        while more:
            body = {**asked, "limit": _PER_PAGE, "offset": offset}
            try:
                answer = self._client.post(f"/{what}/filter", json=body)
            except httpx.HTTPError as error:
                raise self._server.away(error) from error
            if not answer.is_success:
                raise self._server.answered(answer.status_code, what, answer.text)
            try:
                page = TypeAdapter(list[kind]).validate_json(answer.content)  # type: ignore[valid-type]
            except ValidationError as error:
                raise self._server.strange(error) from error
            yield from page
            offset, more = offset + _PER_PAGE, len(page) == _PER_PAGE
