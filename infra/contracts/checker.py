"""Runs rules with Great Expectations and reads its results so that nothing passes by accident.

Great Expectations lets "between" and "in set" pass on missing values, on empty tables and where a
row condition matches no row. Here a rule holds only when rows were looked at and none was missing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation

from infra.contracts.result import ContractResult

_SHOWN = 3  # Offending rows or values that a sentence quotes.
# These keys are left out of the record, so that the same table always gives the same result.
_CHANCE = frozenset({"id", "validation_id", "run_id", "validation_time", "ge_load_time"})


@dataclass(frozen=True)
class Rule:
    """One line of a contract.

    Attributes:
        expectation: What Great Expectations checks.
        must: What has to hold, as the beginning of a sentence.
        remedy: What to do about it, a sentence.
        critical: Whether breaking it breaks the contract; else it is a warning.
        may_be_missing: Rows without a value are left out instead of breaking the rule.
        show_values: Whether the sentence shows offending values beside their rows.
        quoted: Whether these are values of the table; else they are words about them.
    """

    expectation: Expectation
    must: str
    remedy: str
    critical: bool = True
    may_be_missing: bool = False
    show_values: bool = True
    quoted: bool = True


def check_rules(name: str, table: pd.DataFrame, rules: Sequence[Rule]) -> ContractResult:
    """Checks a table; its index is what sentences call the row."""
    for rule, number in zip(rules, range(len(rules)), strict=True):
        rule.expectation.severity = "critical" if rule.critical else "warning"
        rule.expectation.meta = {"rule": number}
    raw = _validate(name, table, [rule.expectation for rule in rules])
    results = {r["expectation_config"]["meta"]["rule"]: r for r in raw["results"]}
    broken: dict[bool, list[str]] = {True: [], False: []}
    for number, rule in enumerate(rules):
        fault = _fault(rule, results[number]) if number in results else "it was not checked"
        if fault:
            broken[rule.critical].append(f"{rule.must}, but {fault}. {rule.remedy}")
    return ContractResult(
        name=name,
        passed=not broken[True],
        sentences=tuple(broken[True]),
        warnings=tuple(broken[False]),
        rules=len(rules),
        raw=raw,
    )


def _validate(
    name: str, table: pd.DataFrame, expectations: Sequence[Expectation]
) -> dict[str, Any]:
    # Each check's table takes the place of the one before.
    batch = _asset().get_batch(_asset().build_batch_request({"dataframe": table}))
    result = batch.validate(
        gx.ExpectationSuite(name=name, expectations=list(expectations)),
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": _SHOWN},
    )
    return _without(_CHANCE, result.to_json_dict())


@cache
def _asset() -> Any:
    """What holds the table of each check; suites and results are not kept, which costs a third."""
    for logger in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # The second has a level of its own.
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context.data_sources.add_pandas("merge-queue").add_dataframe_asset("table")


def _without(keys: frozenset[str], value: Any) -> Any:
    """The same value without some keys of its mappings, at any depth."""
    if isinstance(value, Mapping):
        return {k: _without(keys, v) for k, v in value.items() if k not in keys}
    return [_without(keys, v) for v in value] if isinstance(value, list) else value


def _fault(rule: Rule, outcome: Mapping[str, Any]) -> str | None:
    """What breaks the rule, as the end of a sentence; None when it holds."""
    result = outcome["result"]
    rows, missing = result.get("element_count"), result.get("missing_count") or 0
    observed = result.get("observed_value")
    if error := _exception(outcome["exception_info"]):
        return f"it could not be checked ({error})"
    if rows == 0:
        return "there is no row to check"
    if (unexpected := result.get("unexpected_count")) and rows is None:
        return f"found {_listed(map(_shown, result['partial_unexpected_list']))}"
    if unexpected:
        verb = "does" if unexpected == 1 else "do"
        return f"{unexpected} of {rows} rows {verb} not{_examples(rule, result)}"
    if rows is not None and missing and not rule.may_be_missing:
        return f"{missing} of {rows} rows {'has' if missing == 1 else 'have'} no value"
    if isinstance(observed, float) and not math.isfinite(observed):
        return "there is no number to check"
    if outcome["success"] is not True:
        absent = result.get("partial_missing_list")
        return (
            f"{_listed(map(_shown, absent))} is missing" if absent else f"found {_shown(observed)}"
        )
    return None


def _exception(info: Mapping[str, Any]) -> str | None:
    """The message of an expectation that raised; flat for one, by metric for several."""
    entries = [info] if "raised_exception" in info else list(info.values())
    raised = [e["exception_message"] for e in entries if e.get("raised_exception")]
    return str(raised[0]).splitlines()[0][:200] if raised else None


def _examples(rule: Rule, result: Mapping[str, Any]) -> str:
    parts = []
    values = [v for v in result.get("partial_unexpected_list") or () if v is not None]
    if values and rule.show_values:
        words = map(_shown, values) if rule.quoted else (f"{value:.200}" for value in values)
        parts.append(_listed(dict.fromkeys(words)))
    if rows := result.get("partial_unexpected_index_list"):
        parts.append(f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:_SHOWN]))}")
    return f" ({'; '.join(parts)})" if parts else ""


def _listed(values: Iterable[str]) -> str:
    return ", ".join(list(values)[:_SHOWN])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
