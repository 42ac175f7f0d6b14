"""Pages as a browser draws them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def needs_browser(test: Any) -> Any:
    """Mark a test that opens a page."""
    return pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")(test)


def rendered(path: Path, tmp_path: Path) -> tuple[str, list[str]]:
    """The page's HTML after its script ran, and what the browser complained about."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr "
    flags += "--virtual-time-budget=2000 --dump-dom"
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    browser = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    return browser.stdout, [line for line in browser.stderr.splitlines() if "CONSOLE" in line]
