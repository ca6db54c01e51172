"""Notices reach webhooks and Prefect blocks, and a target that fails never raises."""

from __future__ import annotations

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra import notify
from infra.families import Family
from infra.notify import Notice, send

NOTICE = Notice("promoted", "f", "f version 2 is deployed", "Merges a.")
TRIES = 1 + len(notify.WAITS)


def family(*targets: dict[str, str]) -> Family:
    return Family(
        name="f",
        kind="text-classifier",
        base="s3://bucket/base",
        bucket="bucket",
        notify=targets,
    )


class Inbox:
    """A server that counts and keeps what it gets, by path.

    ``/broken`` always fails, ``/late`` fails once, ``/hanging`` answers nothing until the end.
    """

    def __init__(self) -> None:
        self.received: dict[str, list] = {}
        self.over = threading.Event()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                path = self.path.split("?")[0]
                got = inbox.received.setdefault(path, [])
                got.append(body)
                if path == "/hanging":
                    inbox.over.wait()
                fails = path == "/broken" or (path == "/late" and len(got) == 1)
                self.send_response(503 if fails else 200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()


@pytest.fixture
def inbox(monkeypatch):
    monkeypatch.setattr(notify, "WAITS", (0.0,) * (TRIES - 1))
    opened = Inbox()
    yield opened
    opened.close()


def test_a_webhook_gets_the_notice(inbox):
    assert list(send(family({"webhook": f"{inbox.address}/hook"}), NOTICE)) == []
    assert inbox.received["/hook"] == [
        {
            "event": "promoted",
            "family": "f",
            "subject": "f version 2 is deployed",
            "text": "Merges a.",
        }
    ]


def test_a_server_that_fails_once_is_asked_again(inbox):
    assert list(send(family({"webhook": f"{inbox.address}/late"}), NOTICE)) == []
    assert len(inbox.received["/late"]) == 2


def test_a_target_that_fails_is_reported_without_its_address_and_the_others_are_served(
    inbox, caplog
):
    targets = [f"{inbox.address}/broken", "http://127.0.0.1:9/x", f"{inbox.address}/ok"]
    with caplog.at_level(logging.INFO):
        faults = list(send(family(*({"webhook": target} for target in targets)), NOTICE))

    assert faults == [
        ("target 1 of f", "it answered 503"),
        ("target 2 of f", "ConnectError"),
    ]
    assert len(inbox.received["/broken"]) == TRIES
    assert len(inbox.received["/ok"]) == 1
    assert inbox.address not in caplog.text, "addresses of chat webhooks are secrets"


def test_a_target_that_hangs_does_not_hold_up_a_merge(inbox):
    targets = [{"webhook": f"{inbox.address}/hanging"}, {"webhook": f"{inbox.address}/ok"}]
    # The patience begins, the good target is waited for, then there is no time left.
    clock = iter((0.0, 0.0, 3600.0))
    faults = list(send(family(*targets), NOTICE, clock=clock.__next__))
    assert faults == [("target 1 of f", "it takes too long")]


@pytest.mark.e2e
@pytest.mark.usefixtures("stack")
def test_a_saved_prefect_block_gets_the_notice_and_faults_never_raise(inbox, caplog):
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    for name, path in (("good-chat", "/chat"), ("broken-chat", "/broken")):
        CustomWebhookNotificationBlock(
            name=name,
            url=f"{inbox.address}{path}?token={{{{token}}}}",
            json_data={"title": "{{subject}}", "body": "{{body}}"},
            secrets={"token": "not-for-the-log"},
        ).save(name, overwrite=True)
    blocks = ["good-chat", "broken-chat", "no-such-chat"]
    with caplog.at_level(logging.INFO):
        faults = list(
            send(family(*({"prefect_block": f"custom-webhook/{b}"} for b in blocks)), NOTICE)
        )

    assert inbox.received["/chat"] == [{"title": NOTICE.subject, "body": NOTICE.text}]
    assert faults == [
        ("target 2 of f (Prefect block custom-webhook/broken-chat)", "it answered 503"),
        ("target 3 of f (Prefect block custom-webhook/no-such-chat)", "ValueError"),
    ]
    assert len(inbox.received["/broken"]) == TRIES
    assert "not-for-the-log" not in caplog.text
