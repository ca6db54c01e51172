"""Notices reach a webhook, and a target that fails never raises."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.families import Family
from infra.notify import Notice, send

NOTICE = Notice("promoted", "f", "f version 2 is deployed", "Merges a.")


def family(*addresses: str) -> Family:
    return Family(
        name="f",
        kind="text-classifier",
        base="s3://bucket/base",
        bucket="bucket",
        notify=[{"webhook": address} for address in addresses],
    )


@pytest.fixture
def inbox():
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path == "/broken" else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()


def test_a_webhook_gets_the_notice(inbox):
    address, received = inbox
    assert list(send(family(f"{address}/hook"), NOTICE)) == []
    assert received == [
        {
            "event": "promoted",
            "family": "f",
            "subject": "f version 2 is deployed",
            "text": "Merges a.",
        }
    ]


def test_a_target_that_fails_is_reported_without_its_address_and_the_others_are_served(inbox):
    address, received = inbox
    faults = list(
        send(family(f"{address}/broken", "http://127.0.0.1:9/x", f"{address}/ok"), NOTICE)
    )

    assert [target for target, _ in faults] == ["target 1 of f", "target 2 of f"]
    assert not any(address in text for fault in faults for text in fault)
    assert len(received) == 2
