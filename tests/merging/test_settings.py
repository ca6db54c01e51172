from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from merging.learning.weights import TensorWeights, update
from merging.settings import MergeSettings


@pytest.mark.parametrize(("tanh", "passes"), [(False, True), (True, False)])
def test_only_without_tanh_may_a_coefficient_pass_one(tanh: bool, passes: bool) -> None:
    weights = TensorWeights(torch.tensor([0.9]), tanh=tanh, learning_rate=0.1)
    for step in range(1, 11):
        update([weights], [torch.tensor([-1.0])], step)
    assert float(weights.coefficients()) > 0.9
    assert (float(weights.coefficients()) > 1) == passes


def test_a_start_that_tanh_cannot_reach_is_refused() -> None:
    assert MergeSettings(initial=1.2).initial == 1.2
    with pytest.raises(ValidationError, match="expected less than 1 with tanh"):
        MergeSettings(initial=1.2, tanh=True)
