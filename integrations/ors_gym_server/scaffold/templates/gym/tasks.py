"""The tasks: seeds. The episode of a task starts with ``env.reset(seed=seed)``."""

from __future__ import annotations

SPLITS = {"train": range(1000), "validation": range(1000, 1100), "test": range(1100, 1200)}
