"""The tasks: the OpenEnv environment's own where it has some, else seeds that its episodes are reset with."""

from __future__ import annotations

from collections.abc import Mapping

SPLITS: Mapping[str, range] | None = None
"""Other seeds than the usual ones, such as ``{"train": range(5000), "test": range(5000, 5100)}``."""
