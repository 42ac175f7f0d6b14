"""The policy of ``rollout.py``: a random baseline."""

from __future__ import annotations

from ors_gym import RandomPolicy


class Player(RandomPolicy):
    """Takes random actions, the same ones in every run."""

    def __init__(self) -> None:
        super().__init__(seed=0)
