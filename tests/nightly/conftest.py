"""Tests of packages that are not installed for them are left out, and the summary says how to have them."""

from __future__ import annotations

import importlib.util

import pytest

_MISSING = pytest.StashKey[list[str]]()
LEFT_OUT = "left out: pip install {} (not all at once: some pin others), then make test-nightly"


def pytest_collection_modifyitems(config, items):
    """Leave out the tests whose package, named by ``@pytest.mark.package(module, requirement)``, is not there."""
    missing: dict[str, list] = {}
    for item in items:
        for mark in item.iter_markers("package"):
            module, requirement = mark.args
            if importlib.util.find_spec(module) is None:
                missing.setdefault(requirement, []).append(item)
    deselected = [item for group in missing.values() for item in group]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]
        config.stash.setdefault(_MISSING, []).extend(missing)


def pytest_terminal_summary(terminalreporter, config):
    """One line."""
    requirements = config.stash.get(_MISSING, [])
    if requirements:
        terminalreporter.write_line(LEFT_OUT.format(" ".join(sorted(set(requirements)))))
