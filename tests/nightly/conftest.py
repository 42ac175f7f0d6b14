"""Nothing installs the packages that some of these tests need: the summary says how to have them."""

from __future__ import annotations

import pytest

from tests.conftest import is_installed

_LEFT_OUT = pytest.StashKey[set[str]]()


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Note the packages that the tests left out need."""
    for item in items:
        left_out = item.config.stash.setdefault(_LEFT_OUT, set())
        left_out |= {name for mark in item.iter_markers("needs") for name in mark.args if not is_installed(name)}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in one line how to have them."""
    if left_out := config.stash.get(_LEFT_OUT, set()):
        packages = " ".join(sorted(left_out))
        terminalreporter.write_line(f"left out: pip install {packages} (not all at once: some pin others)")
