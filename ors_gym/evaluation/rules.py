"""How episodes are scored and runs are judged; every compared model has the same rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    """The return of an episode, the threshold of success, and the conditions for a verdict."""

    reward: Literal["sum", "last", "max", "min", "mean"] = "sum"
    """How the rewards of an episode are reduced to its return."""
    unrewarded: float = 0.0
    """The return of an episode without a reward."""
    success_at: float = 1.0
    """The smallest return that counts as success."""
    metric: Literal["success", "return"] = "success"
    """The quantity that verdicts and gates use: the success rate or the mean return."""
    max_failed: float = 0.05
    """The largest share of failed episodes with which there is a verdict."""
    cluster_by: str | None = None
    """A field of the task by which errors are clustered, such as the document that a question is about."""
    population: Literal["tasks like these", "split"] = "tasks like these"
    """The population of the interval: tasks drawn from the same distribution, or exactly the tasks of this split."""
    margin: float | None = None
    """Two models whose difference is shown to be smaller than this are reported as equal within the margin."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_failed <= 1.0:
            raise ValueError(f"max_failed must be between 0 and 1, not {self.max_failed}")
        if self.margin is not None and self.margin <= 0.0:
            raise ValueError("margin must be positive")

    def to_json(self) -> Mapping[str, Any]:
        """The rules as JSON."""
        return asdict(self)
