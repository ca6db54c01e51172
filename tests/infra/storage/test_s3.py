"""What S3 answers, in the project's errors; what it does is in the contract of every store."""

from __future__ import annotations

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from infra.errors import Unavailable, Unreadable
from infra.storage.s3 import S3Store
from infra.storage.store import S3Uri

HERE = S3Uri("models", "bases/tiny/config.json")


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
        (404, "NoSuchBucket", Unreadable, "refuses s3://models/bases/tiny/config.json"),
        (403, "AccessDenied", Unreadable, "the key in use may do that"),
        (400, "ExpiredToken", Unreadable, "refuses"),
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


def test_a_server_that_does_not_answer_is_named():
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 cannot be asked"):
        S3Store(client()).list(HERE)


@pytest.mark.parametrize("key", ["run#2", "run?v=2", "a%20b", "lr=1e-4, batch 32", "a+b", "ü"])
def test_a_key_is_no_url(key):
    assert S3Uri.parse(f"s3://b/experts/{key}") == S3Uri("b", f"experts/{key}")
