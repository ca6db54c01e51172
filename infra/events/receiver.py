"""The door for MLflow's webhooks: checks who sends, and tells Prefect what happened.

    python -m infra.events.serve 127.0.0.1 18302

It decides nothing. An event only says "look at this family": a lost one is made up for by the
schedule, and one that comes twice has the same id and starts nothing the second time.
"""

from __future__ import annotations

import logging
import time
from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException, Request, Response, status
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from infra.errors import Refused, Unavailable
from infra.events.bodies import MAX_BODY_BYTES, Bodies
from infra.events.deliveries import Delivery, Receiver
from infra.events.kept import Kept
from infra.events.metrics import Metrics
from infra.events.seldom import Seldom
from infra.events.webhooks import check_headers, verify
from infra.settings import Settings
from merging.errors import InvalidInput

logger = logging.getLogger("uvicorn.error")

READY_FOR, LOOKED_FOR = 5.0, 15.0
"""Seconds for which the servers are not asked again whether they are there, and how families stand."""
DESCRIBED: dict[str, Any] = {
    "parameters": [
        {"name": f"x-mlflow-{name}", "in": "header", "required": True, "schema": {"type": "string"}}
        for name in ("delivery-id", "timestamp", "signature")
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Delivery.described()}},
    },
}
"""What a message consists of, for who reads `app.openapi()`; it is read by hand, once it is genuine."""
ANSWERS = {
    "forged": status.HTTP_401_UNAUTHORIZED,
    "unavailable": status.HTTP_503_SERVICE_UNAVAILABLE,  # MLflow sends it again.
}
"""The answer to a message, where that is not 204, by what became of it."""
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The message ends before it is whole."},
    401: {"description": "MLflow has not signed it, or not lately."},
    408: {"description": "Its body takes too long."},
    413: {"description": f"It has more than {MAX_BODY_BYTES} bytes."},
    503: {"description": "MLflow or Prefect do not do their part now; send it again."},
}


def create_app(settings: Settings | None = None, bodies: Bodies | None = None) -> FastAPI:
    """The web application; settings come from `Settings.load()` unless given."""
    settings = settings or Settings.load()
    if settings.webhook_secret is None:
        raise InvalidInput(
            where="settings",
            expected="the secret that MLflow signs its webhooks with",
            found="none",
            remedy="Set SUPERMERGE_WEBHOOK_SECRET.",
        )
    secret, bodies = settings.webhook_secret, bodies or Bodies()

    metrics = Metrics(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        seldom = Seldom()
        logger.addFilter(seldom)
        async with httpx.AsyncClient(timeout=10) as client:
            app.state.receiver = receiver = Receiver(settings, client)
            app.state.faults = Kept(receiver.faults, {"servers": "No answer yet."}, READY_FOR)
            app.state.metrics = Kept(partial(to_thread, metrics.look), b"", LOOKED_FOR)
            yield
        logger.removeFilter(seldom)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether it runs."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "A server that it needs is not there."}})
    async def ready(request: Request) -> JSONResponse:
        """Whether it can do its work, and what keeps it from that."""
        faults = await request.app.state.faults()
        code = status.HTTP_503_SERVICE_UNAVAILABLE if faults else status.HTTP_200_OK
        return JSONResponse({"status": "not ready" if faults else "ok", **faults}, code)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def measure(request: Request) -> Response:
        """How the queue is, for Prometheus."""
        text = await request.app.state.metrics() or metrics.text()
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @app.post("/mlflow", status_code=204, responses=REFUSALS, openapi_extra=DESCRIBED)
    async def receive(request: Request) -> Response:
        """Takes a delivery of MLflow's."""
        outcome = "refused"
        try:
            outcome = await take(request)
        finally:
            metrics.deliveries.labels(outcome).inc()
        if code := ANSWERS.get(outcome):
            raise HTTPException(code)
        return Response(status_code=status.HTTP_204_NO_CONTENT)

    async def take(request: Request) -> str:
        """What becomes of a message."""
        try:
            check_headers(request.headers, time.time())
            body = await bodies.read(request)
            delivery_id = verify(secret, request.headers, body, time.time())
        except Refused as refused:
            logger.warning("refused a message: %s", refused)
            return "forged"
        try:
            delivery = Delivery.model_validate_json(body)
        except ValidationError:  # It is genuine, but does not concern the queue.
            return "ignored"
        receiver: Receiver = request.app.state.receiver
        try:
            event = await receiver.read(delivery)
            if event is None:
                return "ignored"
            await receiver.emit(event, delivery_id)
        except Unavailable as error:
            logger.warning("delivery %s: %s", delivery_id, error)
            return "unavailable"
        words = ("%s: %s (%s)", event.family, event.name, delivery_id)
        logger.info(*words, extra={"family": event.family})
        return "taken"

    return app
