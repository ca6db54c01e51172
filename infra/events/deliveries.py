"""What MLflow delivers, which event that is for Prefect, and how Prefect is told."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
from fastapi import status
from pydantic import BaseModel, Field, ValidationError

from infra.errors import Unavailable
from infra.registry.tags import APPROVAL, FAMILY, STATUS, TASK, WITHDRAW, ExpertTags
from infra.settings import Settings

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

    @classmethod
    def described(cls) -> dict[str, Any]:
        """What it looks like, as JSON Schema in one piece."""
        schema = cls.model_json_schema()
        schema["properties"]["data"] = schema.pop("$defs")["Data"]
        return schema


@dataclass(frozen=True)
class Event:
    """What Prefect is told."""

    name: Literal["supermerge.expert.waiting", "supermerge.candidate.reviewed"]
    family: str
    payload: dict[str, str | int]


class Version(BaseModel):
    """The part of MLflow's answer about a model version that matters here."""

    class Tag(BaseModel):
        """One tag."""

        key: str
        value: str = ""

    tags: list[Tag] = []


class Answer(BaseModel):
    """MLflow's answer about a model version."""

    model_version: Version


class Receiver:
    """Reads deliveries with the help of MLflow and hands events to Prefect."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        """Asks the servers of the settings through one client."""
        self._settings = settings
        self._client = client

    async def read(self, delivery: Delivery) -> Event | None:
        """The event that a delivery stands for, or None where it does not concern the queue.

        Raises:
            Unavailable: MLflow does not say whose expert it is about.
        """
        data = delivery.data
        if delivery.entity == "model_version":
            return self._waiting(data.tags.get(FAMILY))
        if data.key == FAMILY:
            return self._waiting(data.value)
        if data.key in (TASK, WITHDRAW):
            return self._waiting(await self._family_of(data))
        if data.key == STATUS and ExpertTags.read({STATUS: data.value}).status == "waiting":
            return self._waiting(await self._family_of(data))
        if data.key == APPROVAL and data.name in self._settings.family_names():
            payload: dict[str, str | int] = {"family": data.name, "version": data.version}
            return Event("supermerge.candidate.reviewed", data.name, payload)
        return None

    async def emit(self, event: Event, delivery_id: str) -> None:
        """Hands an event to Prefect.

        Raises:
            Unavailable: Prefect does not answer or does not take it.
        """
        body = {
            "id": str(uuid.uuid5(EVENT_IDS, delivery_id)),
            "occurred": datetime.now(UTC).isoformat(),
            "event": event.name,
            "resource": {"prefect.resource.id": f"supermerge.family.{event.family}"},
            "payload": event.payload,
        }
        await self._prefect("POST", "events", json=[body])

    async def faults(self) -> dict[str, str]:
        """What keeps the receiver from doing its work, by server; {} where nothing does."""
        faults = {}
        for name, ask in (
            ("mlflow", self._mlflow("registered-models/search", {"max_results": 1})),
            ("prefect", self._prefect("GET", "health")),
        ):
            try:
                await ask
            except Unavailable as error:
                faults[name] = error.reason
        return faults

    def _waiting(self, family: str | None) -> Event | None:
        if family not in self._settings.family_names():
            return None
        return Event("supermerge.expert.waiting", family, {"family": family})

    async def _family_of(self, data: Data) -> str | None:
        known: dict[str, str | int] = {"name": data.name, "version": data.version}
        answer = await self._mlflow("model-versions/get", known, also=[status.HTTP_404_NOT_FOUND])
        if answer.is_error:  # It was deleted meanwhile.
            return None
        try:
            tags = Answer.model_validate_json(answer.content).model_version.tags
        except ValidationError:
            raise Unavailable(
                "MLflow answers with something else than a model version.",
                "Check SUPERMERGE_MLFLOW_URI.",
            ) from None
        return next((tag.value for tag in tags if tag.key == FAMILY), None)

    async def _mlflow(
        self, call: str, query: Mapping[str, str | int], also: Sequence[int] = ()
    ) -> httpx.Response:
        address = f"{self._settings.mlflow_uri}/api/2.0/mlflow/{call}"
        login = self._settings.mlflow_login or httpx.USE_CLIENT_DEFAULT
        return await self._ask("MLflow", "GET", address, also, auth=login, params=query)

    async def _prefect(self, method: str, call: str, **more: Any) -> httpx.Response:
        address = f"{self._settings.prefect_api}/{call}"
        login = self._settings.prefect_login or httpx.USE_CLIENT_DEFAULT
        return await self._ask("Prefect", method, address, auth=login, **more)

    async def _ask(
        self, server: str, method: str, address: str, also: Sequence[int] = (), **more: Any
    ) -> httpx.Response:
        """An answer of a server that is a success, or has one of these statuses as `also`."""
        try:
            answer = await self._client.request(method, address, **more)
        except httpx.HTTPError as error:
            reason = f"{server} does not answer ({type(error).__name__})."
        else:
            if answer.is_success or answer.status_code in also:
                return answer
            reason = f"{server} answers {answer.status_code}."
        raise Unavailable(reason, "Run `supermerge doctor`.")
