"""Serves the receiver, and gives nobody a connection for long.

    python -m infra.events.serve HOST PORT

A web server alone waits for ever for somebody who sends half of a request, or reads half of an answer.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from infra.events.receiver import create_app
from infra.logs import write_json
from infra.settings import Settings

LIFETIME = 30.0
"""Seconds that a connection may last: one request and its answer."""
MOST = 800
"""Connections at once, below the 1,024 files that a process may have open by default."""


def serve(app: FastAPI, host: str, port: int, lifetime: float = LIFETIME, most: int = MOST) -> None:
    """Serves an application until the process is told to end.

    Args:
        app: What is served.
        host: The address to listen on.
        port: The port to listen on.
        lifetime: Seconds after which a connection is cut.
        most: Connections at once; beyond that the oldest is cut, and MLflow's are never old.
    """
    oldest_first: dict[Brief, asyncio.Transport] = {}

    class Brief(H11Protocol):
        """A connection that ends by itself."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Starts the clock, and makes room."""
            super().connection_made(transport)
            self._end = self.loop.call_later(lifetime, transport.abort)
            oldest_first[self] = transport
            if len(oldest_first) > most:
                oldest_first.pop(next(iter(oldest_first))).abort()

        def connection_lost(self, exc: Exception | None) -> None:
            """Stops it."""
            self._end.cancel()
            oldest_first.pop(self, None)
            super().connection_lost(exc)

    uvicorn.run(
        app,
        log_config=None,
        log_level="info",
        host=host,
        port=port,
        http=Brief,
        ws="none",
        access_log=False,
        # One request each: what is left of a refused one is not waited for.
        headers=[("Connection", "close")],
    )


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    # httpx logs every request that is made.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if (settings := Settings.load()).log_format == "json":
        write_json()
    serve(create_app(settings), sys.argv[1], int(sys.argv[2]))
