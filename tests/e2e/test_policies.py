"""Least privilege: each policy under infra/policies lets its role do its work, and no more."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import Unreadable
from infra.settings import CODE, Settings
from infra.stack.embedded import embedded_settings
from infra.stack.part_files import identities_file, write_part_files
from infra.stack.parts import receiver, s3
from infra.stack.state import StackState, choose_ports
from infra.storage.promotions import Promotion, PromotionLog
from infra.storage.s3 import S3Store, s3_client
from infra.storage.store import S3Uri

pytestmark = pytest.mark.e2e

POLICIES = {path.stem: path for path in (CODE / "infra/policies").glob("*.json")}
FAMILY = ("promotions/00000001.json", "attempts/a.json", "merged/m/model", "experts/t/e/weights")
PLACES = (*(f"reviews/{path}" for path in FAMILY), "bases/b/config.json", "others/promotions/1")
OWN = {place for place in PLACES if place.startswith("reviews/")}
LOG, DECISIONS, MERGED = "reviews/promotions", "reviews/attempts", "reviews/merged"
MAY: dict[str, dict[str, set[str]]] = {
    "flow": {
        "read": {*OWN, "bases/b/config.json"},
        "write": OWN,
        "delete": {place for place in OWN if not place.startswith(LOG)},
    },
    "receiver": {"read": {place for place in OWN if place.startswith((LOG, DECISIONS))}},
    "reviewer": {"read": OWN},
    "serving-reader": {"read": {place for place in OWN if place.startswith((LOG, MERGED))}},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Settings]]:
    """The embedded stack's S3 server with a key for each policy; gives the settings of a role."""
    state_dir = tmp_path_factory.mktemp("policies")
    state = StackState(first_port=choose_ports(state_dir))
    settings = embedded_settings(state, state_dir)
    write_part_files(state, settings)
    config = json.loads(identities_file(settings).read_text())
    for role, path in POLICIES.items():
        text = path.read_text().replace("BUCKET", settings.bucket).replace("FAMILY", "reviews")
        config["policies"].append({"name": f"{role}-policy", "content": text})
        keys = {"accessKey": role, "secretKey": f"the secret of {role}"}
        named = {"name": f"test-{role}", "credentials": [keys], "policyNames": [f"{role}-policy"]}
        config["identities"].append(named)
    embedded = receiver(state, settings).environment
    identities_file(settings).write_text(json.dumps(config))
    with (state_dir / "log").open("wb") as log:
        process = subprocess.Popen(s3(state, settings).command, stdout=log, stderr=log)

    def of(role: str) -> Settings:
        keys = {"s3_access_key": role, "s3_secret_key": f"the secret of {role}"}
        if role == "embedded-receiver":
            keys = {name: embedded[f"SUPERMERGE_{name.upper()}"] for name in keys}
        return Settings.of(settings.model_dump() | keys, "test")

    try:
        admin = s3_client(settings)
        while not _is_made(admin, settings.bucket):
            assert process.poll() is None, (state_dir / "log").read_text()
            time.sleep(0.1)
        for place in PLACES:
            admin.put_object(Bucket=settings.bucket, Key=place, Body=b"there")
        yield of
    finally:
        process.kill()
        process.wait()


def _is_made(admin: Any, bucket: str) -> bool:
    try:
        admin.create_bucket(Bucket=bucket)
    except (ClientError, BotoCoreError):  # It does not listen yet, or knows no key yet.
        return False
    return True


def does(client: Any, bucket: str, act: str, place: str) -> bool:
    """Whether a client may do something with an object."""
    acts = {
        "read": lambda: client.get_object(Bucket=bucket, Key=place),
        "list": lambda: client.list_objects_v2(Bucket=bucket, Prefix=f"{place}/"),
        "write": lambda: client.put_object(Bucket=bucket, Key=f"{place}-new", Body=b"new"),
        "delete": lambda: client.delete_object(Bucket=bucket, Key=f"{place}-new"),
    }
    try:
        acts[act]()
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return False
    return True


MAY["embedded-receiver"] = {"read": {*MAY["receiver"]["read"], "others/promotions/1"}}
"""The embedded stack's own: it knows every family that there will be."""


@pytest.mark.parametrize("role", sorted(MAY))
def test_a_role_may_do_what_it_needs_and_no_more(server, role: str) -> None:
    settings = server(role)
    client, bucket = s3_client(settings), settings.bucket
    for act in ("read", "write", "delete"):
        may = {place for place in PLACES if does(client, bucket, act, place)}
        assert may == MAY[role].get(act, set()), act
    folders = {place.rpartition("/")[0] for place in MAY[role]["read"]}
    everywhere = {place.rpartition("/")[0] for place in PLACES} | {""}
    assert {folder for folder in everywhere if does(client, bucket, "list", folder)} == folders
    for act in ("delete_bucket", "delete_bucket_policy", "get_bucket_policy"):
        with pytest.raises(ClientError, match="AccessDenied"):
            getattr(client, act)(Bucket=bucket)


def test_every_policy_is_tried() -> None:
    assert set(POLICIES) == set(MAY) - {"embedded-receiver"}


def test_a_flow_commits_and_the_others_read_it(server, tmp_path: Path) -> None:
    bucket = server("flow").bucket
    folder = S3Uri(bucket, "reviews/promotions/of-a-test")

    def log(role: str) -> PromotionLog:
        return PromotionLog(S3Store.connect(server(role)), folder)

    def commit(role: str, after: Promotion | None) -> Promotion:
        return log(role).append(
            after,
            version=1,
            location=f"s3://{bucket}/reviews/merged/m",
            manifest_sha256="0" * 64,
            action="promote",
            decided_by="test",
            reason="",
            run_id="",
            time=datetime.now(UTC),
        )

    entry = commit("flow", None)
    assert {role: log(role).newest() for role in MAY} == dict.fromkeys(MAY, entry)
    for role in {*MAY} - {"flow"}:
        with pytest.raises(Unreadable):
            commit(role, entry)
    model = tmp_path / "model.safetensors"
    model.write_bytes(bytes(17 << 20))  # In several parts.
    S3Store.connect(server("flow")).upload(model, S3Uri(bucket, "reviews/merged/m/large"))
    reader = S3Store.connect(server("serving-reader"))
    reader.download(S3Uri(bucket, "reviews/merged/m/large"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == model.read_bytes()
