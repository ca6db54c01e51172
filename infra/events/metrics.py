"""What Prometheus is told: how every family stands, what its runs took, and how they ended.

Runs are processes that end, so they are asked for where they are recorded: the log and the decisions in
the object store, experts and candidates in MLflow, runs and steps in Prefect. Counters begin with the
receiver and gauges are as of the last look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import product
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    ProcessCollector,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client import Counter as Total
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.events.runs import ENDED, Runs
from infra.events.verdicts import Verdicts
from infra.overview import ALL, Overview, overviews
from infra.registry.registry import Registry
from infra.registry.tags import ExpertStatus
from infra.settings import Settings
from infra.storage.store import ObjectStore, connect_store
from merging.errors import MergeQueueError
from merging.gate.report import Verdict

disable_created_metrics()  # type: ignore[no-untyped-call]  # Nothing asks when a counter began.

FLOWS = ("continual-merge", "promote", "rollback", "audit", "gc", "rebuild")
STATUSES, VERDICTS = get_args(ExpertStatus), get_args(Verdict)
OUTCOMES = ("taken", "ignored", "forged", "refused", "unavailable")
"""What becomes of a message to the receiver."""
AGED = ("waiting", "merging")
"""Statuses of an expert that should not last."""


class Seen(Collector):
    """The gauges, made from the last look.

    Attributes:
        families: How each family stands.
        runs: How many runs are under way, by family, flow and state; None where Prefect does not say.
    """

    def __init__(self) -> None:
        """Nothing has been looked at."""
        self.families: tuple[Overview, ...] = ()
        self.runs: Counter[tuple[str, str, str]] | None = Counter()

    def collect(self) -> Iterator[Metric]:
        """Every gauge; what could not be read has no value rather than an old one."""
        readable = _gauge("readable", "Whether a part of a family could be read.", "family", "part")
        experts = _gauge("experts", "Experts of a family.", "family", "status")
        oldest = _gauge(
            "oldest_expert_timestamp_seconds",
            "When the first of the experts that wait, or are being merged, was registered.",
            *("family", "status"),
        )
        review = _gauge("candidates_to_review", "Candidates that wait for a person.", "family")
        version = _gauge("deployed_version", "Version of the deployed model.", "family")
        since = _gauge(
            "last_promotion_timestamp_seconds",
            "When the deployed model was promoted, or rolled back to.",
            "family",
        )
        entries = _gauge("log_entries", "Entries of the promotion log.", "family")
        frozen = _gauge("frozen", "Whether nothing may be promoted.", "family")
        under_way = _gauge("runs_under_way", "Flow runs now.", "family", "flow", "state")
        prefect = _gauge("prefect_readable", "Whether Prefect says what runs.")
        for one in self.families:
            for part in ALL:
                readable.add_metric([one.name, part], float(part not in one.unseen))
            if "experts" not in one.unseen:
                for status, count in (dict.fromkeys(STATUSES, 0) | one.counts).items():
                    experts.add_metric([one.name, status], count)
            for status in AGED:
                if time := one.oldest(status):
                    oldest.add_metric([one.name, status], time.timestamp())
            if "candidates" not in one.unseen:
                review.add_metric([one.name], len(one.candidates))
            if one.newest:
                version.add_metric([one.name], one.newest.version)
                entries.add_metric([one.name], one.newest.sequence)
                frozen.add_metric([one.name], one.newest.frozen)
            if one.deployed:
                since.add_metric([one.name], one.deployed.time.timestamp())
        for labels, count in (self.runs or {}).items():
            under_way.add_metric(labels, count)
        prefect.add_metric([], float(self.runs is not None))
        yield from (readable, experts, oldest, review, version, since, entries, frozen)
        yield from (under_way, prefect)


class Metrics:
    """Every metric of the queue and of the receiver itself.

    Attributes:
        deliveries: Messages that reached the receiver, by what became of them.
    """

    def __init__(self, settings: Settings) -> None:
        """Looks at the servers of the settings, when it is told to."""
        self._settings = settings
        self._registry = CollectorRegistry()
        self._seen = Seen()
        self._runs = Runs(settings)
        self._registry.register(self._seen)
        ProcessCollector(registry=self._registry)
        self.deliveries = self._total("deliveries", "Messages of MLflow, or forged.", "outcome")
        for outcome in OUTCOMES:
            self.deliveries.labels(outcome)
        self._verdicts = self._total("verdicts", "What the gate decided.", "family", "verdict")
        self._ended = self._total("runs", "Flow runs that ended.", "family", "flow", "state")
        self._steps = Summary(
            "supermerge_step_seconds",
            "How long a step of an ended run took.",
            ("family", "flow", "step"),
            registry=self._registry,
        )

    def look(self) -> bytes:
        """Asks the servers, and gives all metrics in Prometheus' format."""
        self._seen.families = overviews(self._settings, self._store, self._mlflow)
        for one in self._seen.families:
            self._begin_at_zero(one.name)
            if one.family is not None and "log" not in one.unseen:
                self._count_verdicts(one)
        try:
            for run in self._runs.ended():
                self._ended.labels(run.family, run.flow, run.state).inc()
                for step, seconds in run.steps:
                    self._steps.labels(run.family, run.flow, step).observe(seconds)
            self._seen.runs = self._runs.under_way()
        except MergeQueueError:
            self._seen.runs = None
        return self.text()

    def text(self) -> bytes:
        """All metrics as they were last seen."""
        return generate_latest(self._registry)

    def _begin_at_zero(self, family: str) -> None:
        """Makes every counter of a family: Prometheus does not see the step from none to one."""
        for verdict in VERDICTS:
            self._verdicts.labels(family, verdict)
        for flow, state in product(FLOWS, ENDED):
            self._ended.labels(family, flow, state.lower())

    def _count_verdicts(self, one: Overview) -> None:
        if one.family is None:
            return
        try:
            for verdict in self._new.new(one.family):
                self._verdicts.labels(one.name, verdict).inc()
        except MergeQueueError:
            return  # They are counted at the next look.

    @cached_property
    def _store(self) -> ObjectStore:
        return connect_store(self._settings)

    @cached_property
    def _mlflow(self) -> Registry:
        return Registry.connect(self._settings)

    @cached_property
    def _new(self) -> Verdicts:
        return Verdicts(self._store)

    def _total(self, name: str, words: str, *labels: str) -> Total:
        return Total(f"supermerge_{name}", words, labels, registry=self._registry)


def _gauge(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"supermerge_{name}", words, labels=labels)
