"""The policy of ``rollout.py``: it solves the tasks from the information that a model has."""

from __future__ import annotations

import re

from ors_gym import Reply, ToolCall, Turn
from ors_gym.types import ToolResultBlock, text_of

REVENUE = """\
awk -F, '!seen[$1]++ && $3 == "{store}" && $2 ~ /^{month}/ {{ sum += $5 * $6 }} END {{ printf "%.2f", sum }}' sales.csv
"""


class Player:
    """Sums up the orders with awk, and submits the result."""

    async def act(self, turn: Turn) -> Reply:
        """Answer one turn."""
        last = turn.messages[-1].blocks[-1]
        if isinstance(last, ToolResultBlock):
            return Reply(tool_calls=(ToolCall("submit", {"revenue": float(text_of(last.blocks))}),))
        question = re.search(r"the store in (\w+) in ([\d-]+)", turn.messages[0].text)
        assert question is not None
        command = REVENUE.format(store=question[1], month=question[2])
        return Reply(tool_calls=(ToolCall("bash", {"command": command}),))
