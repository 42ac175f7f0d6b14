"""Redaction of secrets in errors, logs, records and pages."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any, Self
from urllib.parse import quote, quote_plus

__all__ = ["MASK", "Redactor", "Secret", "reveal", "visible"]

MASK = "••••••"
"""The mark that replaces a secret."""

SHORT_CHARACTERS = 8
"""Secrets shorter than this are masked only as whole words."""

PERCENT_CODE = re.compile("%[0-9A-F]{2}")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Redactor:
    """Masks known secrets in text, in any encoding that clients, servers and libraries write them in.

    A secret is found as it is, in JSON (with and without escapes), in a Python literal, percent-encoded and in base64.
    A short secret, which may be an ordinary word, is masked only as a whole word. Give values to it, never structure:
    a role, a type or a key that equals a secret must stay readable.

    >>> redact = Redactor(["open sesame", "a"])
    >>> redact('{"password": "open sesame", "url": "/?key=open%20sesame", "grade": "a", "name": "ada"}')
    '{"password": "••••••", "url": "/?key=••••••", "grade": "••••••", "name": "ada"}'
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        secrets = {LONE_SURROGATE.sub("\ufffd", secret) for secret in secrets if secret}
        forms = {form: len(secret) < SHORT_CHARACTERS for secret in secrets for form in _forms(secret)}
        longest_first = sorted(forms, key=len, reverse=True)
        patterns = [_pattern(form, whole_word=forms[form]) for form in longest_first]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    def __call__(self, text: str) -> str:
        """``text`` without secrets; lone surrogates are replaced too, so that it can be encoded."""
        text = text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)
        return self._pattern.sub(MASK, text) if self._pattern else text

    def name(self, text: str) -> str:
        """A key or a tool's name without secrets; a short identifier is kept even if it equals a secret."""
        return text if len(text) < SHORT_CHARACTERS and text.isidentifier() else self(text)


def _forms(secret: str) -> set[str]:
    """The encodings of a secret that are searched for."""
    encoded = secret.encode()
    forms = {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret).replace("/", "\\/")[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        repr(encoded)[2:-1],
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
    }
    if len(secret) >= SHORT_CHARACTERS:
        forms |= {base64.b64encode(encoded).decode(), base64.urlsafe_b64encode(encoded).decode()}
        forms |= {form.rstrip("=") for form in forms if form.endswith("=") and len(form) > SHORT_CHARACTERS}
    return forms


def _pattern(form: str, *, whole_word: bool) -> str:
    pattern = PERCENT_CODE.sub(r"(?i:\g<0>)", re.escape(form))  # its hexadecimal digits in either case
    if not whole_word:
        return pattern
    before = r"(?<!\w)" if re.match(r"\w", form) else ""
    after = r"(?!\w)" if re.search(r"\w$", form) else ""
    return before + pattern + after


class Secret:
    """A value without a visible repr, in place of an ``api_key``, ``secrets`` or ``client_options``.

    Gymnasium keeps the arguments of ``gym.make`` in ``env.spec`` and prints them; the environments put these three
    behind a Secret there. ``spec.to_json()`` leaves them out.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def reveal(self) -> Any:
        """The value."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(Secret)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def reveal(value: Any) -> Any:
    """The value of a :class:`Secret`; other values unchanged."""
    return value.reveal() if isinstance(value, Secret) else value


UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Controls of a terminal, and marks that change the direction of the text around them."""


def visible(text: str) -> str:
    r"""``text`` from outside as it may be shown: what drives a terminal or turns text around is replaced.

    >>> visible("a\x1b]52;c;eA==\x07b")
    'a�]52;c;eA==�b'
    """
    return UNSEEN.sub("\ufffd", text)
