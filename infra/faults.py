"""What servers and disks do wrong, as the project's errors: one sentence, and the advice that fits.

`explained` finds the words for what a library raised, wherever that comes to light.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.errors import Barred, Unavailable, Unreadable
from infra.servers import (
    Server,
    mlflow_server,
    passes,
    prefect_server,
    s3_server,
    said,
)
from infra.settings import default_state_dir
from merging.errors import MergeQueueError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_KEY_IS_WRONG = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
    *("TokenRefreshRequired", "AuthorizationHeaderMalformed", "MissingSecurityHeader"),
}
_KEY_IS_MISSING = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
    *("ProfileNotFound", "TokenRetrievalError", "UnauthorizedSSOTokenError", "NoAuthTokenError"),
}
# What Prefect's client raises over an answer that it does not understand.
_PREFECT_SAYS = re.compile("Failed to reach API|Found incompatible versions")
_NO_ROOM = 1 << 20  # Bytes.


def explained(error: BaseException) -> MergeQueueError | None:
    """What a server, a disk or the network did to raise an error; None where it is none of them."""
    for fault in _causes(error):
        if isinstance(fault, MergeQueueError):
            return fault
        if told := _explained(fault):
            return told
    if isinstance(error, RuntimeError) and _PREFECT_SAYS.match(str(error)):
        return prefect_server(os.environ.get("PREFECT_API_URL", "its address")).strange(error)
    return None


@contextmanager
def in_words() -> Iterator[None]:
    """Raises what a server or a disk did as the project's error; anything else stays as it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MergeQueueError) or (told := explained(error)) is None:
            raise
        raise told from error


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is used up."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was made from by the libraries that hide what happened."""
    yield error
    for inner in getattr(error, "exceptions", ()):
        yield from _causes(inner)
    wrapped = _library(error) == "mlflow" or isinstance(error, RuntimeError)
    cause = error.__cause__ or (error.__context__ if wrapped else None)
    if cause is not None:
        yield from _causes(cause)


def _explained(error: BaseException) -> MergeQueueError | None:
    library = _library(error)
    if library in ("httpx", "requests") or _is_of(error, "httpx"):
        return from_http(error)
    if library in ("botocore", "boto3", "s3transfer"):
        return from_boto(error, s3_server(os.environ.get("AWS_ENDPOINT_URL_S3")), "a request")
    if library == "mlflow":
        return _from_mlflow(error)
    if library == "prefect":
        return Unavailable(f"Prefect: {said(error)}.", "Run `supermerge up`, then try again.")
    if library == "sqlalchemy":
        words = f"The database of MLflow cannot be used: {said(getattr(error, 'orig', error))}."
        return Unavailable(words, "See that SUPERMERGE_MLFLOW_URI names one that may be written.")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Unavailable(f"Memory ran out ({said(error)}).", "Free some, or use more memory.")
    if isinstance(error, OSError):
        return _from_system(error)
    return None


def from_boto(error: Any, server: Server, asked: str) -> MergeQueueError:
    """What boto3 raised, by whether it is the server's, the key's or the one object's affair.

    Args:
        error: What it raised.
        server: Who was asked.
        asked: For what, in words.
    """
    if not answer_of(error) and answer_of(error.__context__):
        error = error.__context__  # What boto3 says of an upload hides what the server said.
    kind, answer = type(error).__name__, answer_of(error)
    if not answer:
        if kind in _KEY_IS_MISSING:
            return server.barred(error)
        if kind == "ResponseParserError":
            return server.strange(error)
        if kind == "ParamValidationError":
            return Unreadable(f"{asked} cannot be asked for ({said(error)}).", "Correct its name.")
        return server.away(error)
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "RequestTimeTooSkewed":
        return Barred(f"{server.at}: {said(error)}.", "Set the clock of this machine.")
    if code in _KEY_IS_WRONG:
        return server.barred(error)
    if code == "NoSuchBucket":
        words = f"{server.at} has no bucket for {asked}."
        return Unreadable(words, "Create it, or correct the name in the family file.")
    if code == "404":  # Without a word of S3's.
        return server.strange(error)
    if 300 <= status < 400:
        words = f"{server.at} has {asked} elsewhere ({said(error)})."
        return Unreadable(words, "Set SUPERMERGE_S3_REGION, or the region in the address.")
    if not passes(status):
        return Unreadable(
            f"{server.at} refuses {asked} ({said(error)}).",
            "Check that the bucket exists, and that the key in use may do that there.",
        )
    return server.failed(asked, error)


def answer_of(error: object) -> dict[str, Any]:
    """What a server answered that made boto3 raise an error; {} where none did."""
    answer = getattr(error, "response", None)
    return answer if isinstance(answer, dict) else {}


def from_http(error: Any, server: Server | None = None) -> MergeQueueError:
    """What httpx or requests raised.

    Args:
        error: What they raised.
        server: Who was asked; by default whoever has that address.
    """
    try:
        address = str(error.request.url)
    except (RuntimeError, AttributeError):  # They do not always know which request it was.
        address = ""
    server = server or server_at(address)
    response = getattr(error, "response", None)
    if response is None:
        return server.away(error)
    path = "/" + address.partition("://")[2].partition("/")[2]
    return server.answered(response.status_code, path, response.text)


def server_at(address: str) -> Server:
    """The server that an address belongs to, by the addresses that clients were given."""
    kinds = {"MLFLOW_TRACKING_URI": mlflow_server, "PREFECT_API_URL": prefect_server}
    known = {kind(os.environ.get(name, "")) for name, kind in kinds.items()}
    mine = [s for s in known if s.address and f"{address}/".startswith(f"{s.address}/")]
    if mine:
        return max(mine, key=lambda server: len(server.address))
    scheme, _, rest = address.partition("://")
    return Server(
        "The server", f"{scheme}://{rest.partition('/')[0]}", "its address", ("its login",)
    )


def _from_mlflow(error: Any) -> MergeQueueError:
    words = said(error)
    server = mlflow_server(os.environ.get("MLFLOW_TRACKING_URI", "its address"))
    if found := re.search(r"API request to \S+ failed with exception (.*)", words):
        return server.away(found[1])
    code = re.search(r"error code (\d{3})", words)
    status = int(code[1]) if code else getattr(error, "get_http_status_code", lambda: 500)()
    return server.answered(int(status), "a request", words)


def _from_system(error: OSError) -> MergeQueueError | None:
    if error.errno is None:  # Some library's own, without a word of what the system said.
        return None
    where = " and ".join(str(name) for name in (error.filename, error.filename2) if name)
    words = f"{where or 'The system'}: {error.strerror or said(error)}."
    if is_disk_full(error):
        full = (
            "" if where else f" Nothing is free at {' and '.join(_full_places()) or 'some disk'}."
        )
        return Unavailable(words + full, "Free some space; the cache may be deleted at any time.")
    advice = {
        errno.EACCES: "Check who may read and write there.",
        errno.EPERM: "Check who may read and write there.",
        errno.EROFS: "Set SUPERMERGE_STATE_DIR and SUPERMERGE_CACHE_DIR to where one may write.",
        errno.EMFILE: "Raise the limit of open files (`ulimit -n`).",
        errno.ECONNREFUSED: "Start what should listen there: `supermerge up`.",
        errno.EIO: "The disk is damaged or gone: look at the system's log.",
    }
    return Unavailable(words, advice.get(error.errno, "Check the path."))


def _full_places() -> list[str]:
    """The folders that the queue writes to whose disk has no room for a file."""
    cache = os.environ.get("SUPERMERGE_CACHE_DIR") or default_state_dir() / "cache"
    places = {str(place) for place in (default_state_dir(), cache, tempfile.gettempdir())}
    there = [place for place in sorted(places) if Path(place).exists()]
    return [place for place in there if shutil.disk_usage(place).free < _NO_ROOM]


def _library(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _is_of(error: BaseException, library: str) -> bool:
    return any(kind.__module__.partition(".")[0] == library for kind in type(error).__mro__)
