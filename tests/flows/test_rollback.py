"""Which entry of the log a rollback goes back to."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flows.rollback import choose_target
from infra.errors import Refused
from infra.storage.promotions import Promotion


def log(*versions: int) -> list[Promotion]:
    """Each version is promoted in turn; one that was deployed before is a rollback."""
    return [
        Promotion(
            sequence=number,
            version=version,
            location=f"s3://b/f/merged/{version}",
            manifest_sha256=f"digest-{version}",
            previous=versions[number - 2] if number > 1 else None,
            action="rollback" if version in versions[: number - 1] else "promote",
            decided_by="ada",
            reason="",
            run_id="run",
            time=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for number, version in enumerate(versions, start=1)
    ]


def test_without_a_version_it_is_the_one_before_the_present():
    assert choose_target("f", log(1, 2, 3), None).version == 2
    assert choose_target("f", log(1, 2, 3, 2), None).version == 1


def test_of_two_models_with_one_number_the_later_is_taken():
    """MLflow counts anew once its database was lost."""
    first, *others = log(1, 2, 1, 3)
    entries = [first.model_copy(update={"manifest_sha256": "another"}), *others]
    assert choose_target("f", entries, 1) == others[1].model


@pytest.mark.parametrize(
    ("versions", "to", "told"),
    [
        ((), None, "Nothing of family 'f' is deployed yet"),
        ((), 1, "Nothing of family 'f' is deployed yet"),
        ((1,), None, "has no version before the present one"),
        ((1, 2), 7, r"deployed until now were \[1, 2\], at present 2"),
        ((1, 2), 2, "cannot be gone back to"),
    ],
)
def test_what_was_never_deployed_or_is_deployed_is_refused(versions, to, told):
    with pytest.raises(Refused, match=told):
        choose_target("f", log(*versions), to)
