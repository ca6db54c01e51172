"""The door for MLflow's webhooks: checks who sends, and tells Prefect what happened.

    uvicorn infra.events.receiver:create_app --factory --host 127.0.0.1 --port 18302

It decides nothing. An event only says "look at this family": a lost one is made up for by the
schedule, and one that comes twice has the same id and starts nothing the second time.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import httpx
from fastapi import FastAPI, HTTPException, Request, Response, status
from pydantic import BaseModel, Field, ValidationError

from infra.errors import Refused
from infra.events.webhooks import verify
from infra.registry.tags import APPROVAL, FAMILY, STATUS, ExpertTags
from infra.settings import Settings
from merging.errors import InvalidInput

logger = logging.getLogger("uvicorn.error")

MAX_BODY_BYTES = 2 * 1024**2
"""Bytes that a message may have: MLflow's largest tag and description (100,000 and 200,000
characters), with room for escapes."""
EVENT_IDS = uuid.UUID("6f0f3c1e-0a55-4f0e-9d0e-6d1f0f6f3a52")
"""The namespace in which the id of a delivery gives the id of its event."""


class Data(BaseModel):
    """The fields of a model version or of one of its tags; MLflow may send more."""

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    tags: dict[str, str] = {}
    key: str = ""
    value: str = ""


class Delivery(BaseModel):
    """The body of a webhook."""

    entity: Literal["model_version", "model_version_tag"]
    action: Literal["created", "set"]
    data: Data


@dataclass(frozen=True)
class Event:
    """What Prefect is told."""

    name: Literal["supermerge.expert.waiting", "supermerge.candidate.reviewed"]
    family: str
    payload: dict[str, str | int]


class Receiver:
    """Reads deliveries with the help of MLflow and hands events to Prefect."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        self.settings = settings
        self.client = client

    async def read(self, delivery: Delivery) -> Event | None:
        """The event that a delivery stands for, or None where it does not concern the queue."""
        data = delivery.data
        if delivery.entity == "model_version":
            return self._waiting(data.tags.get(FAMILY))
        if data.key == FAMILY:
            return self._waiting(data.value)
        if data.key == STATUS and ExpertTags.read({STATUS: data.value}).status == "waiting":
            return self._waiting(await self._family_of(data))
        if data.key == APPROVAL and data.name in self.settings.family_names():
            payload: dict[str, str | int] = {"family": data.name, "version": data.version}
            return Event("supermerge.candidate.reviewed", data.name, payload)
        return None

    async def emit(self, event: Event, delivery_id: str) -> None:
        """Hands an event to Prefect.

        Raises:
            httpx.HTTPError: Prefect does not answer or does not take it.
        """
        body = {
            "id": str(uuid.uuid5(EVENT_IDS, delivery_id)),
            "occurred": datetime.now(UTC).isoformat(),
            "event": event.name,
            "resource": {"prefect.resource.id": f"supermerge.family.{event.family}"},
            "payload": event.payload,
        }
        address = f"{self.settings.prefect_api}/events"
        login = self.settings.prefect_login or httpx.USE_CLIENT_DEFAULT
        answer = await self.client.post(address, json=[body], auth=login)
        answer.raise_for_status()

    def _waiting(self, family: str | None) -> Event | None:
        if family not in self.settings.family_names():
            return None
        return Event("supermerge.expert.waiting", family, {"family": family})

    async def _family_of(self, data: Data) -> str | None:
        answer = await self.client.get(
            f"{self.settings.mlflow_uri}/api/2.0/mlflow/model-versions/get",
            params={"name": data.name, "version": data.version},
            auth=self.settings.mlflow_login,
        )
        if answer.status_code == status.HTTP_404_NOT_FOUND:  # It was deleted meanwhile.
            return None
        tags = answer.raise_for_status().json()["model_version"].get("tags", [])
        return next((tag["value"] for tag in tags if tag["key"] == FAMILY), None)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The web application; settings come from `Settings.load()` unless given."""
    settings = settings or Settings.load()
    if settings.webhook_secret is None:
        raise InvalidInput(
            where="settings",
            expected="the secret that MLflow signs its webhooks with",
            found="none",
            remedy="Set SUPERMERGE_WEBHOOK_SECRET.",
        )
    secret = settings.webhook_secret

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=10) as client:
            app.state.receiver = Receiver(settings, client)
            yield

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/mlflow")
    async def receive(request: Request) -> Response:
        body = await _read_body(request)
        try:
            delivery_id = verify(secret, request.headers, body, time.time())
        except Refused as refused:
            logger.warning("refused a message: %s", refused)
            raise HTTPException(status.HTTP_401_UNAUTHORIZED) from None
        receiver: Receiver = request.app.state.receiver
        try:
            event = await receiver.read(Delivery.model_validate_json(body))
            if event is not None:
                await receiver.emit(event, delivery_id)
                logger.info("%s: %s (%s)", event.family, event.name, delivery_id)
        except ValidationError:
            pass  # It is genuine, but does not concern the queue.
        except httpx.HTTPError as error:
            # MLflow sends again on 503.
            logger.warning("delivery %s: %s", delivery_id, error)
            raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE) from None
        return Response(status_code=status.HTTP_204_NO_CONTENT)

    return app


async def _read_body(request: Request) -> bytes:
    """Reads the whole body, and gives up as soon as it is too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(status.HTTP_413_CONTENT_TOO_LARGE)
    return bytes(body)
