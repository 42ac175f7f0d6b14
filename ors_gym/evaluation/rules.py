"""How episodes are scored and runs are judged: the same rules for every model that is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What an episode is worth, what counts as solved, and when there is no verdict."""

    reward: Literal["sum", "last", "max", "min", "mean"] = "sum"
    """How the rewards of an episode become its return."""
    unrewarded: float = 0.0
    """The return of an episode that was given no reward."""
    success_at: float = 1.0
    """A return of at least this is a success."""
    metric: Literal["success", "return"] = "success"
    """What verdicts and gates are about: the success rate, or the mean return."""
    max_failed: float = 0.05
    """Over this share of failed episodes there is no verdict."""
    cluster_by: str | None = None
    """A field of the task by which errors are clustered, such as the document a question is about."""
    population: Literal["tasks like these", "split"] = "tasks like these"
    """What the interval is for: tasks drawn like these, or the tasks of this very split."""
    margin: float | None = None
    """Two models whose difference is shown to be smaller than this are called equal within it."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_failed <= 1.0:
            raise ValueError(f"max_failed is a share between 0 and 1, not {self.max_failed}")
        if self.margin is not None and self.margin <= 0.0:
            raise ValueError("margin must be positive")

    def to_json(self) -> Mapping[str, Any]:
        """The rules as JSON."""
        return asdict(self)
