"""A Gymnasium environment as ORS: its tasks are seeds, its tool comes from the action space.

ors-gym serve frozen_lake:FrozenLake
ors-gym rollout http://127.0.0.1:8080 --policy frozen_lake:Solver
python train_grpo.py --url http://127.0.0.1:8080 --env frozenlake --model Qwen/Qwen3-0.6B --max-turns 20
"""

from __future__ import annotations

from ors_gym import Reply, ToolCall, Turn
from ors_gym_server import as_ors_environment, main

FrozenLake = as_ors_environment(
    "FrozenLake-v1", name="frozenlake", is_slippery=False, action_names=["left", "down", "right", "up"]
)
WAY = ("down", "down", "right", "right", "down", "right")


class Solver:
    """Knows the path over the default map."""

    async def act(self, turn: Turn) -> Reply:
        """Answer a turn."""
        (tool,) = turn.tools.tools
        return Reply(tool_calls=(ToolCall(tool.name, {"action": WAY[turn.number]}),))


if __name__ == "__main__":
    main(FrozenLake)
