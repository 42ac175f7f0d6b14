"""A self-contained HTML page built from ``pages/``: one file, no network.

The output of environments and models is untrusted: it enters the page as JSON inside data blocks and is displayed only
as text. A content security policy, which names the page's one script by its hash, forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any, cast

__all__ = ["packed", "read_page", "write_page"]


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    data: Callable[[], Any],
    scripts: Iterable[str],
    blocks: Iterable[str] = (),
) -> Path:
    """Write a page to ``path``, replacing an existing file, and return the path. The write is atomic.

    Args:
        path: The file.
        title: The page's title, as text.
        data: Returns the JSON-compatible data that the scripts draw; called after ``blocks`` are written.
        scripts: The names of the scripts in ``pages/``, which are joined into one.
        blocks: More data, each encoded by :func:`packed`; the script finds the n-th under the id ``block-n``.
    """
    path = Path(path)
    script = "\n".join(_resource(name) for name in scripts)
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    parts: dict[str, Callable[[], Iterable[str]]] = {
        "title": lambda: [html.escape(title)],
        "script_source": lambda: [f"'sha256-{digest}'"],
        "style": lambda: [_resource("style.css")],
        "data": lambda: [_escaped(data())],
        "blocks": lambda: (_block(number, text) for number, text in enumerate(blocks)),
        "script": lambda: [script],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for piece in _resource("page.html").split("{{"):
                name, closed, rest = piece.partition("}}")
                if not closed:
                    file.write(piece)
                    continue
                for text in parts[name]():
                    file.write(text)
                file.write(rest)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_page(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the data that the scripts of a page draw from its file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a page of ors-gym.
    """
    text = Path(path).read_text(encoding="utf-8")
    found = DATA.search(text)
    data: Any = json.loads(found[1]) if found else None
    if not isinstance(data, dict):
        raise ValueError(f"{os.fspath(path)} is not a page of ors-gym")
    return cast("dict[str, Any]", data)


DATA = re.compile('<script type="application/json" id="run">(.*?)</script>', re.DOTALL)


def packed(data: Any) -> str:
    """JSON for a block of a page, compressed; the browser decompresses it on display."""
    wire = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(wire.encode(), 6)).decode()


def _escaped(data: Any) -> str:
    """JSON as ASCII without "<", so it has no line separators, and no text can end the block or open a comment."""
    wire = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        wire = wire.replace(character, f"\\u{ord(character):04x}")
    return wire


def _block(number: int, text: str) -> str:
    return f'<script type="text/plain" id="block-{number}">{text}</script>\n'


def _resource(name: str) -> str:
    return resources.files("ors_gym.reporting").joinpath("pages", name).read_text(encoding="utf-8")
