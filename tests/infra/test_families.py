"""Family files: every shipped one is valid, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from infra.families import list_families, load_family
from infra.settings import PROJECT
from merging.errors import InvalidInput

SHIPPED = PROJECT / "infra" / "families"
MINIMAL = {"name": "x", "kind": "text-classifier", "base": "s3://bucket/base", "bucket": "bucket"}


def write(directory: Path, **changes: object) -> Path:
    content = {key: value for key, value in {**MINIMAL, **changes}.items() if value is not None}
    (directory / "x.yaml").write_text(yaml.safe_dump(content))
    return directory


@pytest.mark.parametrize("name", list_families(SHIPPED))
def test_every_shipped_family_file_is_valid(name):
    assert load_family(name, SHIPPED).name == name


def test_a_minimal_family_has_defaults_for_all_else(tmp_path):
    family = load_family("x", write(tmp_path))

    assert (family.promotion, family.device) == ("auto", "auto")
    assert str(family.root) == "s3://bucket/x"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"marging": 0.1}, "marging"),
        ({"gate": {"margin": 2}}, "gate.margin"),
        ({"merge": {"stepps": 1}}, "merge.stepps"),
        ({"base": "file:///etc"}, "base"),
        ({"promotion": "never"}, "promotion"),
        ({"ladder": []}, "ladder"),
        ({"ladder": ["relearn", "relearn"]}, "each rung once"),
        ({"ladder": ["relearn", "relearn-row"]}, "merge.granularity"),
        ({"ladder": ["chain"], "merge": {"preprocess": "tsv-m"}}, "no chain"),
        ({"bucket": None}, "bucket"),
        ({"name": "y"}, "name: x"),
        ({"notify": [{"mail": "a@b.c"}]}, "mail"),
        ({"schedule": "every hour"}, "no line of cron"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, named):
    with pytest.raises(InvalidInput, match=r"x\.yaml") as error:
        load_family("x", write(tmp_path, **changes))
    assert named in str(error.value)


@pytest.mark.parametrize("content", [b"kind: \xff", b"[1, 2]", b"", b"a: b: c"])
def test_what_is_no_family_file_at_all_is_refused(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"x\.yaml: expected a family file"):
        load_family("x", tmp_path)


def test_an_unknown_family_lists_those_there_are(tmp_path):
    with pytest.raises(InvalidInput, match="families: x"):
        load_family("z", write(tmp_path))


@pytest.mark.parametrize("name", ["../x", "X", "", "a" * 64, "a/b"])
def test_a_name_that_could_be_a_path_is_refused(tmp_path, name):
    with pytest.raises(InvalidInput, match="name of the family"):
        load_family(name, tmp_path)
