"""The bucket that everything lies in."""

from __future__ import annotations

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.settings import Settings
from merging.errors import Unavailable


def ensure_bucket(settings: Settings) -> None:
    """Creates the bucket unless it is there; shows at the same time that the keys are right.

    Raises:
        Unavailable: S3 does not answer or refuses the keys.
    """

    def reveal(secret: object) -> str | None:
        return secret.get_secret_value() if hasattr(secret, "get_secret_value") else None

    s3 = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=reveal(settings.s3_access_key),
        aws_secret_access_key=reveal(settings.s3_secret_key),
        config=Config(retries={"total_max_attempts": 2}),
    )
    try:
        s3.head_bucket(Bucket=settings.bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise _unavailable(settings, error) from None
        s3.create_bucket(Bucket=settings.bucket)
    except BotoCoreError as error:
        raise _unavailable(settings, error) from None


def _unavailable(settings: Settings, error: Exception) -> Unavailable:
    return Unavailable(
        f"S3 at {settings.s3_endpoint or 'AWS'} does not give access to the bucket "
        f"{settings.bucket!r}: {error}. Check SUPERMERGE_S3_ENDPOINT and its keys."
    )
