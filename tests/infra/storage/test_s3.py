"""What S3 answers, in the project's errors; what it does is in the contract of every store."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from infra.errors import Barred, Refused, Unavailable, Unreadable
from infra.settings import Settings
from infra.storage.s3 import S3Store
from infra.storage.store import S3Uri, connect_store
from tests.infra.storage.fake_s3 import running

HERE = S3Uri("models", "bases/tiny/config.json")

NOWHERE = {"mlflow_uri": "http://127.0.0.1:9", "prefect_api": "http://127.0.0.1:9/api"}


def client(port: int = 9):
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(retries={"max_attempts": 1}, connect_timeout=1),
    )


@pytest.mark.parametrize(
    ("status", "code", "error", "told"),
    [
        (404, "NoSuchKey", Unreadable, "does not exist"),
        (404, "NoSuchBucket", Unreadable, "has no bucket for s3://models/bases/tiny/config.json"),
        (403, "AccessDenied", Unreadable, "the key in use may do that"),
        (400, "ExpiredToken", Barred, "does not let us in .* SUPERMERGE_S3_SECRET_KEY"),
        (403, "SignatureDoesNotMatch", Barred, "does not let us in"),
        (403, "RequestTimeTooSkewed", Barred, "Set the clock"),
        (301, "PermanentRedirect", Unreadable, "Set SUPERMERGE_S3_REGION"),
        (429, "TooManyRequests", Unavailable, "failed on"),
        (500, "InternalError", Unavailable, "failed on"),
        (503, "SlowDown", Unavailable, "failed on"),
    ],
)
def test_what_stays_so_is_told_from_what_passes(status, code, error, told):
    ours = client()
    with Stubber(ours) as server:
        server.add_client_error("get_object", code, http_status_code=status)
        with pytest.raises(error, match=told):
            S3Store(ours).read(HERE)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "does not answer"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "failed on"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "no listing came back"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n<Lis", "failed on"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", "it redirects"),
    ],
)
def test_what_is_no_listing_is_not_taken_for_an_empty_one(answer, words):
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            while True:
                try:
                    connection = door.accept()[0]
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises((Unavailable, Unreadable), match=words):
            S3Store(client(door.getsockname()[1])).list(HERE)
        door.shutdown(socket.SHUT_RDWR)


def test_a_server_that_does_not_answer_is_named():
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 does not answer"):
        S3Store(client()).list(HERE)


@pytest.fixture
def connect(tmp_path, monkeypatch):
    """Starts a server with its own ways, and gives a store that speaks to it."""
    monkeypatch.setenv("SUPERMERGE_STATE_DIR", str(tmp_path))
    with ExitStack() as servers:

        def start(checksum="sha256", **ways):
            fake = servers.enter_context(running(**ways))
            settings = Settings(**NOWHERE, **fake.settings, s3_checksum=checksum)
            return fake, connect_store(settings)

        yield start


def test_a_server_that_ignores_the_condition_is_refused_before_anything_is_committed(connect):
    fake, store = connect(ignores_condition=True)
    with pytest.raises(Refused, match=r"ignores the header If-None-Match.*nothing was committed"):
        store.create(S3Uri("models", "f/promotions/00000001.json"), b"{}")
    assert [path for path in fake.objects if path.endswith(".json")] == []


def test_a_server_without_conditional_writes_is_refused(connect):
    _, store = connect(knows_condition=False)
    with pytest.raises(Refused, match="has no conditional writes"):
        store.create(S3Uri("models", "f/promotions/00000001.json"), b"{}")


def test_conditional_writes_are_proved_once_with_one_request_where_they_were_proved_before(connect):
    fake, store = connect()
    log = S3Uri("models", "f/promotions")
    for another in (store, S3Store.connect(Settings(**NOWHERE, **fake.settings))):
        before = len(fake.requests)
        another.create(log / "1.json", b"{}")
        another.create(log / "2.json", b"{}")
        asked = fake.requests[before:]
    assert [request for request in asked if "conditional-write" in request] == [
        "PUT /models/f/promotions/conditional-write"
    ]


def test_a_server_without_checksums_is_written_to_where_that_is_set(connect, tmp_path):
    fake, store = connect(refuses_checksums=True)
    with pytest.raises(Unreadable, match=r"Unsupported header x-amz-.*checksum"):
        store.write(HERE, b"x")
    store = S3Store.connect(Settings(**NOWHERE, **fake.settings, s3_checksum="none"))
    (tmp_path / "file").write_bytes(b"x")
    store.write(HERE, b"x")
    store.create(HERE / "new", b"x")
    store.upload(tmp_path / "file", HERE)
    assert store.read(HERE) == b"x"


@pytest.mark.parametrize("name", ["AWS_SESSION_TOKEN", "AWS_PROFILE"])
def test_a_token_and_a_profile_in_the_shell_stay_out_of_a_server_with_keys(
    name, connect, monkeypatch
):
    fake, _ = connect()
    monkeypatch.setenv(name, "of-yesterday")
    settings = Settings(**NOWHERE, **fake.settings)
    connect_store(settings).write(HERE, b"x")
    assert "of-yesterday" not in str(fake.headers)

    assert settings.disturbing() == [name]
    monkeypatch.setattr(os, "environ", dict(os.environ))
    settings.apply()
    assert name not in os.environ


def test_why_a_server_refuses_what_has_no_body_is_found_out(connect):
    _, store = connect(refuses_with="InvalidAccessKeyId")
    with pytest.raises(Barred, match="InvalidAccessKeyId"):
        store.exists(HERE)


@pytest.mark.parametrize("key", ["run#2", "run?v=2", "a%20b", "lr=1e-4, batch 32", "a+b", "ü"])
def test_a_key_is_no_url(key):
    assert S3Uri.parse(f"s3://b/experts/{key}") == S3Uri("b", f"experts/{key}")
