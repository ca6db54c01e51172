"""What a server's certificate is held against."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


def authorities(address: str) -> ssl.SSLContext | bool:
    """What httpx takes as ``verify`` for an address.

    httpx reads the file of all authorities for every client, which takes longer than most requests. Here
    it is read once, and not at all where there is no certificate: httpx follows no redirect by itself.
    """
    return _all() if address.lower().startswith("https:") else False


@cache
def _all() -> ssl.SSLContext:
    return httpx.create_ssl_context()
