"""The object store that is S3.

Large files go through boto3's transfer manager: parallel ranged GETs and multipart PUTs.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import Conflict, Refused
from infra.faults import answer_of, from_boto
from infra.servers import s3_server
from infra.storage.store import S3Uri, StoredObject, missing

if TYPE_CHECKING:
    from infra.settings import Checksum, Settings

_TRANSFER = TransferConfig(
    multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=8
)
_MISSING = {"404", "NoSuchKey", "NotFound"}
_WITHOUT_WORDS = {"400", "403"}
_NOT_KNOWN = {"501", "NotImplemented"}
_PROBE, _WHAT_IT_IS = "conditional-write", b"Shows that an object is created only once.\n"
_LOST_RACE = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}


def s3_client(settings: Settings, **options: Any) -> Any:
    """Boto3's client for the S3 of the settings; `options` as its configuration takes them."""
    access, secret = settings.s3_access_key, settings.s3_secret_key
    # With keys of its own it does without the profile that a shell may name.
    without_profile = {"profile": (None, None, None, None)} if access else None
    session = boto3.Session(botocore_session=botocore.session.Session(without_profile))
    lazy = "when_required" if settings.s3_checksum == "none" else None
    config: dict[str, Any] = {
        "retries": {"total_max_attempts": 3, "mode": "standard"},
        "max_pool_connections": 16,
        "connect_timeout": 10,
        "request_checksum_calculation": lazy,
        "response_checksum_validation": lazy,
        # In place of a checksum the signature says what has to arrive.
        "s3": {"payload_signing_enabled": True} if lazy else None,
    }
    return session.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=access.get_secret_value() if access else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(**(config | options)),
    )


class S3Store:
    """Objects in any S3 that has conditional writes."""

    def __init__(self, client: Any, checksum: Checksum = "sha256") -> None:
        """Speaks through boto3's client; `checksum` is what the server checks uploads by."""
        self._client = client
        self._checked = {} if checksum == "none" else {"ChecksumAlgorithm": checksum.upper()}
        self._server = s3_server(client.meta.endpoint_url)
        self._proved: set[S3Uri] = set()

    @classmethod
    def connect(cls, settings: Settings) -> S3Store:
        """A store at the configured endpoint; credentials from settings or boto3's own chain."""
        return cls(s3_client(settings), settings.s3_checksum)

    def list(self, prefix: S3Uri) -> tuple[StoredObject, ...]:
        """Every object below ``prefix``, in the order of the bytes of their keys."""
        with self._asking_for(prefix):
            # SeaweedFS lists folder by folder: a/z before a-b.
            return tuple(sorted(self._iterate(prefix), key=lambda item: item.path))

    def exists(self, uri: S3Uri) -> bool:
        """True if the object is there."""
        with self._asking_for(uri):
            try:
                self._client.head_object(Bucket=uri.bucket, Key=uri.key)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return False
                raise
        return True

    def read(self, uri: S3Uri) -> bytes:
        """The bytes of a small object; raises Unreadable when it is not there."""
        with self._asking_for(uri):
            body: bytes = self._client.get_object(Bucket=uri.bucket, Key=uri.key)["Body"].read()
        return body

    def write(self, uri: S3Uri, data: bytes) -> None:
        """Writes a small object, replacing what was there."""
        with self._asking_for(uri):
            self._client.put_object(Bucket=uri.bucket, Key=uri.key, Body=data, **self._checked)

    def create(self, uri: S3Uri, data: bytes) -> None:
        """Creates an object only if it does not exist: of two writers exactly one succeeds.

        Raises:
            Conflict: An object with other bytes is already there.
        """
        self.prove_create(uri.parent)
        if not self._create(uri, data) and self.read(uri) != data:
            raise Conflict(str(uri))

    def prove_create(self, folder: S3Uri) -> None:
        """Shows once that the server creates an object only where there is none.

        It leaves a small object in the folder, which proves it to the next process with one request.
        """
        probe = folder / _PROBE
        if folder not in self._proved:
            # The first may create the probe; whoever creates it again had the header ignored.
            if self._create(probe, _WHAT_IT_IS) and self._create(probe, _WHAT_IT_IS):
                raise Refused(
                    f"{self._server.at} ignores the header If-None-Match: it created {probe} twice. Of two "
                    "writers both would believe that theirs is the deployed model.",
                    "Use a server with conditional writes, such as AWS S3 or SeaweedFS; nothing was "
                    "committed.",
                )
            self._proved.add(folder)

    def clock(self, uri: S3Uri) -> datetime:
        """What time it is on the server; any folder in it that may be listed will do."""
        with self._asking_for(uri):
            answer = self._client.list_objects_v2(
                Bucket=uri.bucket, Prefix=f"{uri.key}/", MaxKeys=1
            )
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def refuses_damage(self, uri: S3Uri) -> bool:
        """Whether the server refuses bytes that are not those of their checksum; leaves none there."""
        name = self._checked["ChecksumAlgorithm"]
        sent = {"SHA256": bytes(32), "CRC32": bytes(4)}[name]
        wrong = {f"Checksum{name}": base64.b64encode(sent).decode()}
        with self._asking_for(uri):
            try:
                self._client.put_object(Bucket=uri.bucket, Key=uri.key, Body=b"damaged", **wrong)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 400:
                    raise
                return True
        self.delete(uri)
        return False

    def _create(self, uri: S3Uri, data: bytes) -> bool:
        """Whether the server created the object; it did not where there is one."""
        with self._asking_for(uri):
            try:
                self._client.put_object(
                    Bucket=uri.bucket, Key=uri.key, Body=data, IfNoneMatch="*", **self._checked
                )
            except ClientError as error:
                if _code(error) in _NOT_KNOWN:
                    raise Refused(
                        f"{self._server.at} has no conditional writes ({error}).",
                        "Use a server that has them, such as AWS S3 or SeaweedFS; nothing was "
                        "committed.",
                    ) from error
                if _code(error) not in _LOST_RACE:
                    raise
                return False
        return True

    def delete(self, uri: S3Uri) -> None:
        """Removes an object; nothing happens where there is none."""
        with self._asking_for(uri):
            self._client.delete_object(Bucket=uri.bucket, Key=uri.key)

    def download(self, uri: S3Uri, target: Path) -> None:
        """Copies an object to a file, which is written beside and renamed.

        Raises:
            Unreadable: There is no such object, or it may not be read.
        """
        with self._asking_for(uri):
            # A small one comes at once, where boto3 would ask for its size first.
            answer = self._client.get_object(Bucket=uri.bucket, Key=uri.key)
            with closing(answer["Body"]) as body:
                if answer["ContentLength"] < _TRANSFER.multipart_threshold:
                    beside = target.with_name(secrets.token_hex(8))
                    try:
                        beside.write_bytes(body.read())
                        beside.replace(target)
                    finally:
                        beside.unlink(missing_ok=True)
                    return
            self._client.download_file(uri.bucket, uri.key, str(target), Config=_TRANSFER)

    def upload(self, source: Path, uri: S3Uri) -> None:
        """Copies a file to an object, its checksum verified by the server."""
        with self._asking_for(uri):
            self._client.upload_file(
                str(source),
                uri.bucket,
                uri.key,
                ExtraArgs=self._checked,
                Config=_TRANSFER,
            )

    def _iterate(self, prefix: S3Uri) -> Iterator[StoredObject]:
        folder = f"{prefix.key}/"
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=prefix.bucket, Prefix=folder
        )
        for page in pages:
            if "Name" not in page and "IsTruncated" not in page:  # An empty listing has these.
                raise self._server.strange(f"{prefix} was listed, and no listing came back")
            for item in page.get("Contents", ()):
                path = item["Key"].removeprefix(folder)
                if path and not path.endswith("/"):
                    yield StoredObject(
                        S3Uri(prefix.bucket, item["Key"]),
                        path,
                        item["Size"],
                        item["ETag"].strip('"'),
                        item["LastModified"],
                    )

    @contextmanager
    def _asking_for(self, uri: S3Uri) -> Iterator[None]:
        """Turns what boto3 raises into the project's errors, by whether trying again may help."""
        try:
            yield
        except RecursionError:  # Botocore asks a server anew for ever that sends it elsewhere.
            raise self._server.strange("it redirects") from None
        except (ClientError, BotoCoreError, Boto3Error) as error:
            if isinstance(getattr(error, "kwargs", {}).get("error"), RecursionError):
                raise self._server.strange("it redirects") from None
            writes = getattr(error, "operation_name", "").startswith("Put")
            if _code(error) in _MISSING and not writes:
                raise missing(uri) from error
            raise from_boto(self._in_words(error, uri), self._server, str(uri)) from error

    def _in_words(self, error: Exception, uri: S3Uri) -> Exception:
        """The answer to HEAD has no body: asked otherwise, a server says why it refuses."""
        if _code(error) not in _WITHOUT_WORDS:
            return error
        try:
            self._client.get_object(Bucket=uri.bucket, Key=uri.key, Range="bytes=0-0")
        except (ClientError, BotoCoreError) as fuller:
            return fuller
        return error


def _code(error: Any) -> str:
    return str(answer_of(error).get("Error", {}).get("Code", ""))
