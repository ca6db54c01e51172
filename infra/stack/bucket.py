"""The bucket that everything lies in."""

from __future__ import annotations

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import Unavailable
from infra.settings import Settings


def check_bucket(settings: Settings, *, create: bool) -> None:
    """Shows that the bucket is there and that the keys open it.

    Args:
        settings: Where it is.
        create: Whether to make it where it is missing.

    Raises:
        Unavailable: S3 does not answer, refuses the keys, or has no such bucket.
    """
    access, secret = settings.s3_access_key, settings.s3_secret_key
    s3 = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=access.get_secret_value() if access else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(retries={"total_max_attempts": 2}),
    )
    try:
        s3.head_bucket(Bucket=settings.bucket)
    except ClientError as error:
        if create and error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            s3.create_bucket(Bucket=settings.bucket)
            return
        raise _unavailable(settings, error) from None
    except BotoCoreError as error:
        raise _unavailable(settings, error) from None


def _unavailable(settings: Settings, error: Exception) -> Unavailable:
    return Unavailable(
        f"S3 at {settings.s3_endpoint or 'AWS'} does not give access to the bucket "
        f"{settings.bucket!r}: {error}.",
        "Check SUPERMERGE_S3_ENDPOINT, its keys and SUPERMERGE_BUCKET; create the bucket if it is "
        "missing.",
    )
