"""Data contracts: what an examples table and a gate report have to look like.

Great Expectations does the checking and stays behind this package; it takes seconds to import, so
that happens on the first check.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from infra.contracts.result import ContractResult

if TYPE_CHECKING:
    import pandas as pd

    from infra.contracts.docs import DocsSection
    from merging.gate import GatePolicy, GateReport
    from merging.kinds import ModelKind

__all__ = ["ContractResult", "check_examples", "check_gate_report", "data_docs"]


def check_examples(
    table: pd.DataFrame,
    kind: ModelKind,
    labels: Sequence[str],
    policy: GatePolicy,
    *,
    task: str = "",
) -> ContractResult:
    """Checks an expert's examples table as it lands, before anything is computed from it.

    Args:
        table: As `merging.experts.tables.read_table` gives it.
        kind: The family's kind of model.
        labels: The expert's label names by class index, empty for generation.
        policy: Of the family: how many gate examples the task's margin needs.
        task: Name of the ML task, for its own margin and for the result's name.
    """
    from infra.contracts.examples import check  # This imports Great Expectations.

    return check(table, kind, labels, policy, task)


def check_gate_report(report: GateReport, tasks: Collection[str]) -> ContractResult:
    """Checks that a gate report is whole, and that a pass holds up when computed once more.

    Args:
        report: The decision.
        tasks: The tasks that the candidate has to answer: exactly these must have been decided.
    """
    from infra.contracts.gate import check  # This imports Great Expectations.

    return check(report, tasks)


def data_docs(result: ContractResult) -> tuple[DocsSection, ...]:
    """Great Expectations' data docs of a result: every rule in its words, and what it found."""
    from infra.contracts.docs import data_docs  # This imports Great Expectations.

    return data_docs(result)
