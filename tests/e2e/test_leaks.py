"""Whatever way a secret is written, the search for leaks finds it."""

from __future__ import annotations

import base64
from urllib.parse import urlencode

from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.leaks import forms

SECRET = "v9-x/Y+wQ2=uTzK_0"


@given(before=st.binary(), after=st.binary())
def test_it_is_found_in_clear_in_hex_and_in_base64(before: bytes, after: bytes) -> None:
    whole = before + SECRET.encode() + after
    for written in (whole, whole.hex().encode(), base64.b64encode(whole)):
        assert any(form in written for form in forms(SECRET))


def test_it_is_found_in_an_address() -> None:
    assert any(form in urlencode({"key": SECRET}).encode() for form in forms(SECRET))


def test_other_text_is_no_secret() -> None:
    assert not any(form in b"v9-x is the beginning" for form in forms(SECRET))
