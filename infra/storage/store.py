"""Objects in S3: listing, whole-file transfer with digests, and the conditional create.

Large files go through boto3's transfer manager: parallel ranged GETs and multipart PUTs. Bytes are
never trusted by name: whoever downloads compares SHA-256 digests (see :mod:`infra.storage.cache`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.errors import Conflict, Unavailable
from merging.errors import InvalidInput

if TYPE_CHECKING:
    from infra.settings import Settings

_TRANSFER = TransferConfig(
    multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=8
)
_MISSING = {"404", "NoSuchKey", "NotFound"}
_LOST_RACE = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}


@dataclass(frozen=True)
class S3Uri:
    """A bucket and a key (or key prefix without a trailing slash)."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> S3Uri:
        """Reads ``s3://bucket/key``; raises InvalidInput for anything else."""
        parsed = urlparse(uri)
        parts = parsed.path.strip("/").split("/")
        if parsed.scheme != "s3" or not parsed.netloc or not all(parts) or ".." in parts:
            raise InvalidInput(
                where="S3 location",
                expected="s3://bucket/prefix",
                found=repr(uri[:500]),
                remedy="Point it to a folder in the object store.",
            )
        return cls(parsed.netloc, "/".join(parts))

    def __truediv__(self, child: str) -> S3Uri:
        """A key below this one."""
        return S3Uri(self.bucket, f"{self.key}/{child}")

    def __str__(self) -> str:
        """As `s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing. ``path`` is relative to the prefix that was listed."""

    uri: S3Uri
    path: str
    size: int
    etag: str


class ObjectStore:
    """The few operations on S3 that the queue is built from."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def connect(cls, settings: Settings) -> ObjectStore:
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
        """Every object below ``prefix``, in key order."""
        return tuple(self._iterate(prefix))

    def exists(self, uri: S3Uri) -> bool:
        """True if the object is there."""
        try:
            self._client.head_object(Bucket=uri.bucket, Key=uri.key)
        except ClientError as error:
            if _code(error) in _MISSING:
                return False
            raise
        return True

    def read(self, uri: S3Uri) -> bytes:
        """The bytes of a small object; raises Unavailable when it is not there."""
        try:
            body: bytes = self._client.get_object(Bucket=uri.bucket, Key=uri.key)["Body"].read()
        except ClientError as error:
            if _code(error) in _MISSING:
                raise Unavailable(
                    f"{uri} does not exist.",
                    "Restore the object, or roll back to a version whose files are complete.",
                ) from error
            raise
        return body

    def read_json(self, uri: S3Uri) -> Any:
        """The parsed JSON of a small object."""
        return json.loads(self.read(uri))

    def write(self, uri: S3Uri, data: bytes) -> None:
        """Writes a small object, replacing what was there."""
        self._client.put_object(
            Bucket=uri.bucket, Key=uri.key, Body=data, ChecksumAlgorithm="SHA256"
        )

    def create(self, uri: S3Uri, data: bytes) -> None:
        """Creates an object only if it does not exist: of two writers exactly one succeeds.

        A retried request can meet its own first try; the same bytes therefore count as success.

        Raises:
            Conflict: another object is already there.
        """
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
        self._client.delete_object(Bucket=uri.bucket, Key=uri.key)

    def download(self, uri: S3Uri, target: Path) -> None:
        """Copies an object to a file (complete or absent: boto3 writes beside and renames)."""
        self._client.download_file(uri.bucket, uri.key, str(target), Config=_TRANSFER)

    def upload(self, source: Path, uri: S3Uri) -> None:
        """Copies a file to an object, its checksum verified by the server."""
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


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
