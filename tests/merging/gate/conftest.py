from __future__ import annotations

import pytest

from tests.merging.gate.chosen_answers import task_scores


@pytest.fixture
def scores():
    return task_scores
