"""Secrets are masked in every encoding, and ordinary words stay whole."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym.redaction import MASK, Redactor

ENCODINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "JSON": json.dumps,
    "JSON in UTF-8": lambda secret: json.dumps(secret, ensure_ascii=False),
    "JSON with escaped slashes": lambda secret: json.dumps(secret).replace("/", "\\/"),
    "Python literal": repr,
    "Python bytes": lambda secret: repr(secret.encode()),
    "percent-encoded": quote,
    "percent-encoded with slashes": lambda secret: quote(secret, safe=""),
    "percent-encoded in lower case": lambda secret: quote(secret, safe="").replace("%2F", "%2f"),
    "form-encoded": quote_plus,
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
@given(secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=8))
def test_a_secret_is_masked_in_every_encoding(encode: Callable[[str], str], secret: str):
    form = encode(secret)
    assert MASK in Redactor([secret])(f"error: {form} was refused")


@given(secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=8))
def test_a_secret_is_masked_in_base64(secret: str):
    encoded = base64.b64encode(secret.encode()).decode()
    assert encoded.rstrip("=") not in Redactor([secret])(f"Basic {encoded}")


@pytest.mark.parametrize("secret", ["a", "user", "test", "k", "1"])
def test_a_short_secret_is_masked_as_a_word_and_not_inside_words(secret: str):
    assert Redactor([secret])(f"key={secret}; x{secret}x") == f"key={MASK}; x{secret}x"


def test_a_long_secret_is_masked_inside_words():
    assert Redactor(["0123456789"])("tok0123456789end") == f"tok{MASK}end"


@given(secrets=st.lists(st.text(min_size=1), max_size=4), text=st.text())
def test_masking_needs_no_secret_and_gives_text_that_can_be_encoded(secrets: list[str], text: str):
    Redactor(secrets)(text).encode()
    assert Redactor([])("text") == "text"


def test_a_secret_that_begins_another_does_not_leave_the_rest_behind():
    assert Redactor(["password", "password-of-mine"])("password-of-mine") == MASK
