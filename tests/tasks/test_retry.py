"""What is tried again, and what is not."""

from __future__ import annotations

import httpx
import pytest
from botocore.exceptions import EndpointConnectionError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from infra.errors import Conflict, Corrupt, Unavailable, Unreadable
from merging.errors import InvalidInput
from tasks.retry import is_transient

ASKED = httpx.Request("GET", "http://127.0.0.1:9/")


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
        MlflowException("gone"),
        httpx.HTTPStatusError("busy", request=ASKED, response=httpx.Response(429, request=ASKED)),
        httpx.ConnectError("refused"),
        ConnectionResetError(),
        TimeoutError(),
        Unavailable("It is not there yet.", "Wait."),
    ],
)
def test_a_fault_of_a_server_or_the_network_is_tried_again(error):
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput(where="w", expected="e", found="f", remedy="r"),
        Corrupt(where="w", expected="e", found="f", remedy="r"),
        Conflict("s3://b/x"),
        Unreadable("It is not there.", "Restore it."),
        MlflowException("gone", error_code=RESOURCE_DOES_NOT_EXIST),
        httpx.HTTPStatusError("no", request=ASKED, response=httpx.Response(403, request=ASKED)),
        FileNotFoundError("image.png"),
        ValueError("bad"),
        KeyError("x"),
    ],
)
def test_what_will_be_the_same_next_time_is_not(error):
    assert not is_transient(error)
