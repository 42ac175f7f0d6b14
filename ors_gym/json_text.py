"""JSON as it crosses the wire: written without NaN, read with an error in words."""

from __future__ import annotations

import json
from typing import Any

from ors_gym.errors import ProtocolError

__all__ = ["encode_json", "parse_json"]


def encode_json(payload: Any) -> bytes:
    """Write JSON for the wire.

    Raises:
        ValueError: it holds NaN, an infinity or half a surrogate pair.
        TypeError: it holds something that is no JSON.
    """
    return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def parse_json(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        reason = str(error)
    raise ProtocolError(f"expected JSON, got {text[:80]!r}{'…' if len(text) > 80 else ''} ({reason})")
