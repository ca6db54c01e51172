from __future__ import annotations

import pytest
from chosen_answers import task_scores


@pytest.fixture
def scores():
    return task_scores
