"""Who plays in ``rollout.py``: the baseline that every policy must beat."""

from __future__ import annotations

from ors_gym import RandomPolicy


class Player(RandomPolicy):
    """Takes random actions, the same ones in every run."""

    def __init__(self) -> None:
        super().__init__(seed=0)
