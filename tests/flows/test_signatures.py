"""Each flow can be called with what its deployment and its commands give it."""

from __future__ import annotations

import inspect

import pytest

from flows.audit import audit
from flows.continual_merge import continual_merge
from flows.promote import promote
from flows.rollback import rollback


@pytest.mark.parametrize(
    ("flow", "needed", "optional"),
    [
        (continual_merge, {"family"}, set()),
        (promote, {"family", "version"}, set()),
        (rollback, {"family"}, {"to", "decided_by", "reason", "away_from"}),
        (audit, {"family"}, set()),
    ],
)
def test_a_flow_needs_no_more_than_the_family_and_what_a_person_names(flow, needed, optional):
    parameters = inspect.signature(flow.fn).parameters.values()
    assert {p.name for p in parameters if p.default is p.empty} == needed
    assert {p.name for p in parameters if p.default is not p.empty} == optional
