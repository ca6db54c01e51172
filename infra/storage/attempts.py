"""What the queue decided on each build: one small object under ``attempts/<build key>.json``.

It is written last, so a run that was killed, or that meets the same inputs again, finds it and does not
repeat the work. It is also what a version in MLflow is held against: anybody who may write there can
create a version and set any tag on it.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import Corrupt
from infra.storage.promotions import Recorded
from infra.storage.store import ObjectStore, S3Uri
from merging.gate.report import GateReport

_KEY = re.compile(r"[0-9a-f]{64}")


class Decided(BaseModel):
    """What came of one build.

    Attributes:
        run_id: The MLflow run with the report.
        manifest_sha256: The digest of the candidate's manifest; None where the build was rejected.
        report: The gate's decision.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    manifest_sha256: str | None
    report: GateReport


class Attempts:
    """The decided builds of one family."""

    def __init__(self, store: ObjectStore, family: S3Uri) -> None:
        self._store = store
        self._folder = family / "attempts"
        self._candidates = family / "merged"

    def candidate(self, key: str) -> S3Uri:
        """The folder of a candidate's files; its build key is its name."""
        return self._candidates / key

    def find(self, key: str) -> Decided | None:
        """What was decided on a build; None where it never came to an end.

        Raises:
            Corrupt: What is stored is no decision.
        """
        uri = self._folder / f"{key}.json"
        if not self._store.exists(uri):
            return None
        try:
            return Decided.model_validate_json(self._store.read(uri))
        except ValidationError as error:
            raise Corrupt(
                where=str(uri),
                expected="what was decided on a build",
                found=str(error),
                remedy="Delete the object; the build is decided again.",
            ) from error

    def record(self, key: str, decided: Decided) -> None:
        """Writes down what was decided on a build."""
        self._store.write(self._folder / f"{key}.json", decided.model_dump_json().encode())

    def report(self, model: Recorded) -> GateReport | None:
        """The decision on a model in the log; None where there is no record of it any more.

        Raises:
            Corrupt: What is stored is no decision.
        """
        decided = self.find(model.key)
        known = decided is not None and decided.manifest_sha256 == model.manifest_sha256
        return decided.report if decided is not None and known else None

    def judged(self, version: int, source: str) -> tuple[Recorded, GateReport]:
        """The candidate whose files lie at the source of a version in MLflow, and its decision.

        Raises:
            Corrupt: The queue has no record of a candidate there.
        """
        key = source.removeprefix(f"{self._candidates}/")
        decided = self.find(key) if _KEY.fullmatch(key) else None
        if decided is None or decided.manifest_sha256 is None:
            raise Corrupt(
                where=f"version {version} in MLflow",
                expected=f"a candidate that this queue built, below {self._candidates}",
                found=f"the source {source[:200]!r}, of which it has no record",
                remedy="Nothing is done with it; review a version that the queue registered.",
            )
        return Recorded(version, self.candidate(key), decided.manifest_sha256), decided.report
