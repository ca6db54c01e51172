"""The object store that is S3.

Large files go through boto3's transfer manager: parallel ranged GETs and multipart PUTs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import PASSING, Conflict, Unavailable, Unreadable
from infra.storage.store import S3Uri, StoredObject, missing

if TYPE_CHECKING:
    from infra.settings import Settings

_TRANSFER = TransferConfig(
    multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=8
)
_MISSING = {"404", "NoSuchKey", "NotFound"}
_PASSING = PASSING | {409, 412}
_LOST_RACE = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}


class S3Store:
    """Objects in any S3 that has conditional writes."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def connect(cls, settings: Settings) -> S3Store:
        """A store at the configured endpoint; credentials from settings or boto3's own chain."""
        access, secret = settings.s3_access_key, settings.s3_secret_key
        return cls(
            boto3.client(
                "s3",
                endpoint_url=settings.s3_endpoint,
                region_name=settings.s3_region,
                aws_access_key_id=access.get_secret_value() if access else None,
                aws_secret_access_key=secret.get_secret_value() if secret else None,
                config=Config(
                    retries={"max_attempts": 5, "mode": "standard"}, max_pool_connections=16
                ),
            )
        )

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
            self._client.put_object(
                Bucket=uri.bucket, Key=uri.key, Body=data, ChecksumAlgorithm="SHA256"
            )

    def create(self, uri: S3Uri, data: bytes) -> None:
        """Creates an object only if it does not exist: of two writers exactly one succeeds.

        Raises:
            Conflict: An object with other bytes is already there.
        """
        with self._asking_for(uri):
            try:
                self._client.put_object(
                    Bucket=uri.bucket,
                    Key=uri.key,
                    Body=data,
                    IfNoneMatch="*",
                    ChecksumAlgorithm="SHA256",
                )
            except ClientError as error:
                if _code(error) not in _LOST_RACE:
                    raise
                if self.read(uri) != data:
                    raise Conflict(str(uri)) from error

    def delete(self, uri: S3Uri) -> None:
        """Removes an object; nothing happens where there is none."""
        with self._asking_for(uri):
            self._client.delete_object(Bucket=uri.bucket, Key=uri.key)

    def download(self, uri: S3Uri, target: Path) -> None:
        """Copies an object to a file; boto3 writes beside and renames.

        Raises:
            Unreadable: There is no such object, or it may not be read.
        """
        with self._asking_for(uri):
            self._client.download_file(uri.bucket, uri.key, str(target), Config=_TRANSFER)

    def upload(self, source: Path, uri: S3Uri) -> None:
        """Copies a file to an object, its checksum verified by the server."""
        with self._asking_for(uri):
            self._client.upload_file(
                str(source),
                uri.bucket,
                uri.key,
                ExtraArgs={"ChecksumAlgorithm": "SHA256"},
                Config=_TRANSFER,
            )

    def _iterate(self, prefix: S3Uri) -> Iterator[StoredObject]:
        folder = f"{prefix.key}/"
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=prefix.bucket, Prefix=folder
        )
        for page in pages:
            for item in page.get("Contents", ()):
                path = item["Key"].removeprefix(folder)
                if path and not path.endswith("/"):
                    yield StoredObject(
                        S3Uri(prefix.bucket, item["Key"]),
                        path,
                        item["Size"],
                        item["ETag"].strip('"'),
                    )

    @contextmanager
    def _asking_for(self, uri: S3Uri) -> Iterator[None]:
        """Turns what boto3 raises into the project's errors, by whether trying again may help."""
        server = f"The object store at {self._client.meta.endpoint_url}"
        try:
            yield
        except ClientError as error:
            if _code(error) in _MISSING:
                raise missing(uri) from error
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if 400 <= status < 500 and status not in _PASSING:
                raise Unreadable(
                    f"{server} refuses {uri} ({error}).",
                    "Check that the bucket exists, and that the key in use may do that there.",
                ) from error
            raise Unavailable(f"{server} failed on {uri} ({error}).", "Read its log.") from error
        except (BotoCoreError, Boto3Error) as error:
            raise Unavailable(
                f"{server} cannot be asked for {uri} ({error}).",
                "Start it with `supermerge up`, or check SUPERMERGE_S3_ENDPOINT and the key.",
            ) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
