"""Keeping secrets out of what is written down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import quote

__all__ = ["MASK", "SecretMask"]

MASK = "••••••"
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class SecretMask:
    """Blanks known secrets out of text, also where they stand quoted: as in JSON, in a Python literal or in a URL.

    >>> SecretMask(["open sesame"])('{"password": "open sesame", "url": "/?key=open%20sesame"}')
    '{"password": "••••••", "url": "/?key=••••••"}'
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        longest_first = sorted(forms, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """``text`` without secrets, and as Unicode that every reader takes: half surrogate pairs are replaced."""
        text = text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)
        return self._secrets.sub(MASK, text) if self._secrets else text


def _forms(secret: str) -> tuple[str, ...]:
    secret = LONE_SURROGATE.sub("\ufffd", secret)
    return (
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        quote(secret, safe=""),
    )
