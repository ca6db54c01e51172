"""Faults between the queue and a server, for mitmproxy; what goes wrong stands in a JSON file.

FAULT=fault.json mitmdump --mode reverse:http://127.0.0.1:8333 --set keep_host_header=true -s addon.py
"""

import asyncio
import json
import os
import re
from pathlib import Path

from mitmproxy import ctx, http

FAULT = Path(os.environ["FAULT"])


class Faults:
    """Spoils the requests that a fault is about, as often as it says."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def _due(self, flow: http.HTTPFlow, moment: str) -> dict | None:
        text = FAULT.read_text() if FAULT.exists() else ""
        fault = json.loads(text) if text else None
        if not fault or fault["moment"] != moment:
            return None
        if not re.search(fault["of"], f"{flow.request.method} {flow.request.path}"):
            return None
        self.done[text] = self.done.get(text, 0) + 1
        return fault if self.done[text] <= fault["times"] else None

    async def request(self, flow: http.HTTPFlow) -> None:
        fault = self._due(flow, "before")
        if not fault:
            return
        ctx.log.info(f"{fault['kind']}: {flow.request.method} {flow.request.path}")
        if fault["kind"] == "reset":
            flow.kill()
        elif fault["kind"] == "late":
            await asyncio.sleep(fault["seconds"])
        else:
            flow.response = http.Response.make(int(fault["kind"]), b"<Error/>")

    async def response(self, flow: http.HTTPFlow) -> None:
        fault = self._due(flow, "after")
        if not fault or flow.response is None:
            return
        ctx.log.info(f"{fault['kind']}: {flow.request.method} {flow.request.path}")
        body = flow.response.raw_content or b""
        if fault["kind"] == "reset":  # It was carried out, and nobody hears of it.
            flow.kill()
        elif fault["kind"] == "wrong":
            flow.response.raw_content = body[:-1] + bytes([body[-1] ^ 1]) if body else body
        elif fault["kind"] == "short":
            flow.response.raw_content = body[: len(body) // 2]
        else:
            flow.response = http.Response.make(int(fault["kind"]), b"<Error/>")


addons = [Faults()]
