"""Actions of bare Gymnasium environments as calls of their ports."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces

from ors_gym.types import ToolCall
from ors_gym_server.adapters.action_tools import ActionTools
from ors_gym_server.adapters.observation_text import as_json

TAXI = "Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3"
"""By the version of Gymnasium."""


def call_of(tools: ActionTools, action: Any) -> ToolCall:
    """The call that stands for an action of the bare environment."""
    names = tools.names
    if names is None:
        return ToolCall("step", {"action": as_json(action)})
    if isinstance(tools.space, spaces.Discrete):
        return ToolCall("step", {"action": names[int(action - tools.space.start)]})
    if len(names) == 1 and not isinstance(tools.space, spaces.Box):
        return ToolCall("step", {names[0]: as_json(action)})
    return ToolCall("step", dict(zip(names, as_json(action), strict=True)))
