"""Great Expectations' data docs of a result, as plain words.

Its own pages load scripts and styles from the web, take 4 MB, carry the time in their names, and put
values of the table into the page as markup. So only its words are taken; a page has to escape them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import Template
from typing import Any

from great_expectations.core.expectation_validation_result import (
    ExpectationSuiteValidationResultSchema,
)
from great_expectations.render.renderer import ValidationResultsPageRenderer

from infra.contracts.result import ContractResult

_RUN = {
    "run_name": None,
    "run_time": "1970-01-01T00:00:00+00:00",
}  # It has to be given, and is not shown.
_HOLDS = "✅"


@dataclass(frozen=True)
class CheckedRule:
    """A rule in Great Expectations' words: whether it holds, what it asks for, what was found."""

    holds: bool
    expectation: str
    found: str


@dataclass(frozen=True)
class DocsSection:
    """The rules on one column, or on the whole table."""

    heading: str
    rules: tuple[CheckedRule, ...]


def data_docs(result: ContractResult) -> tuple[DocsSection, ...]:
    """See `infra.contracts.data_docs`."""
    raw = json.loads(json.dumps(result.raw))
    raw["meta"]["run_id"] = _RUN
    loaded = ExpectationSuiteValidationResultSchema().load(raw)
    document = ValidationResultsPageRenderer().render(loaded).to_json_dict()
    _overview, *sections = document["sections"]
    return tuple(_section(section) for section in sections)


def _section(section: Mapping[str, Any]) -> DocsSection:
    header, table = section["content_blocks"]
    rules = [
        CheckedRule(
            holds=icon["string_template"]["params"]["markdown_status_icon"] == _HOLDS,
            expectation=" ".join(_words(expectation)),
            found=" ".join(_words(found)),
        )
        for icon, expectation, found in table["table"]
    ]
    return DocsSection(" ".join(_words(header["header"])), tuple(rules))


def _words(content: Any) -> Iterator[str]:
    """The text in a piece of rendered content, whatever it is nested in."""
    if isinstance(content, list):
        for part in content:
            yield from _words(part)
    elif isinstance(content, Mapping):
        if "string_template" in content:
            template = content["string_template"]
            yield Template(template["template"]).safe_substitute(template.get("params") or {})
        for row in content.get("table", ()):
            yield from _words(row)
    elif content is not None:
        yield str(content)
