"""The tasks: the OpenEnv environment's own if it has any, else seeds for the reset of its episodes."""

from __future__ import annotations

from collections.abc import Mapping

SPLITS: Mapping[str, range] | None = None
"""Seeds other than the default ones, such as ``{"train": range(5000), "test": range(5000, 5100)}``."""
