"""The bucket that everything lies in."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import Unreadable
from infra.faults import from_boto
from infra.servers import s3_server
from infra.settings import Settings
from infra.storage.s3 import s3_client


def check_bucket(settings: Settings, *, create: bool) -> None:
    """Shows that the bucket is there and that the keys open it.

    Args:
        settings: Where it is.
        create: Whether to make it where it is missing.

    Raises:
        Unavailable: S3 does not answer, or refuses the keys.
        Unreadable: It has no such bucket, or the keys do not open it.
    """
    server = s3_server(settings.s3_endpoint)
    try:
        s3 = s3_client(settings, retries={"total_max_attempts": 2})
        try:
            # HEAD would be refused without a word, and a key need not open the whole bucket.
            s3.list_objects_v2(Bucket=settings.bucket, Prefix="_mlflow/", MaxKeys=1)
        except ClientError as error:
            if not create or error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            s3.create_bucket(Bucket=settings.bucket)
    except (ClientError, BotoCoreError) as error:
        told = from_boto(error, server, f"the bucket {settings.bucket!r}")
        if isinstance(told, Unreadable):
            remedy = (
                "Create it, or correct SUPERMERGE_BUCKET; and see that the key in use opens it."
            )
            raise Unreadable(told.reason, remedy) from None
        raise told from None
