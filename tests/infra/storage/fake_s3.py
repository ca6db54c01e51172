"""A small S3 server with the ways of servers that differ."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class FakeS3:
    """What it holds, what it was asked, and how it is."""

    ignores_condition: bool = False
    knows_condition: bool = True
    refuses_checksums: bool = False
    refuses_with: str = ""
    clock_is_off: float = 0.0
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    port: int = 0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def settings(self) -> dict[str, str]:
        """How one reaches it."""
        return {
            "s3_endpoint": f"http://127.0.0.1:{self.port}",
            "s3_access_key": "key",
            "s3_secret_key": "secret",
            "s3_region": "us-east-1",
        }


@contextmanager
def running(**ways: Any) -> Iterator[FakeS3]:
    """A server on a port of its own."""
    fake = FakeS3(**ways)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = _decoded(self.rfile.read(length), self.headers)
            path = unquote(urlsplit(self.path).path)
            query = parse_qs(urlsplit(self.path).query)
            with fake.lock:
                fake.requests.append(f"{self.command} {path}")
                fake.headers.append(str(self.headers))
                status, answer = _answer(fake, self.command, path, query, self.headers, body)
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + fake.clock_is_off, usegmt=True))
            if status != 204:
                self.send_header("Content-Length", str(len(answer)))
            self.send_header("ETag", f'"{md5(answer).hexdigest()}"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def _answer(
    fake: FakeS3, method: str, path: str, query: dict, headers: Any, body: bytes
) -> tuple[int, bytes]:
    checksums = [n for n in headers if "checksum" in n.lower() or n.lower() == "x-amz-trailer"]
    if fake.refuses_with:
        return _error(403, fake.refuses_with, "no")
    if method == "PUT":
        if fake.refuses_checksums and checksums:
            return _error(400, "InvalidArgument", f"Unsupported header {checksums[0]}")
        if "If-None-Match" in headers and not fake.knows_condition:
            return _error(501, "NotImplemented", "A header is not implemented")
        if "If-None-Match" in headers and path in fake.objects and not fake.ignores_condition:
            return _error(412, "PreconditionFailed", "It is there")
        fake.objects[path] = body
        return 200, b""
    if method == "DELETE":
        fake.objects.pop(path, None)
        return 204, b""
    if "list-type" in query:
        bucket, prefix = path.strip("/"), query.get("prefix", [""])[0]
        found = sorted(k for k in fake.objects if k.startswith(f"/{bucket}/{prefix}"))
        items = "".join(
            f"<Contents><Key>{escape(k.removeprefix(f'/{bucket}/'))}</Key><ETag>x</ETag>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified>"
            f"<Size>{len(fake.objects[k])}</Size></Contents>"
            for k in found
        )
        return 200, f"<ListBucketResult><Name>{bucket}</Name>{items}</ListBucketResult>".encode()
    if path.count("/") == 1:  # the bucket itself
        return 200, b""
    if path not in fake.objects:
        return _error(404, "NoSuchKey", "It is not there")
    return 200, fake.objects[path]


def _decoded(body: bytes, headers: Any) -> bytes:
    """Without the chunks in which boto3 sends what has a checksum behind it."""
    if "aws-chunked" not in headers.get("Content-Encoding", ""):
        return body
    data, rest = b"", body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size.partition(b";")[0], 16)
        if count == 0:
            break
        data, rest = data + rest[:count], rest[count + 2 :]
    return data


def _error(status: int, code: str, message: str) -> tuple[int, bytes]:
    return status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
