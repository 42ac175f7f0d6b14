"""The solver that plays an ORS episode: Inspect's model generates, the environment's session answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, TypeVar

from inspect_ai.log import transcript
from inspect_ai.model import get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver
from pydantic import JsonValue

from ors_gym.client.client import ORSClient
from ors_gym.client.portal import Portal, shared_portal
from ors_gym.policies.names import ToolNames
from ors_gym.rollouts.exchange import Conversation
from ors_gym.rollouts.options import SessionOptions, open_session
from ors_gym.trajectory import StopReason, TaskRef
from ors_gym.types import ToolList
from ors_gym_inspect.messages import answers, chat_messages, reply_of, tool_infos

__all__ = ["API_KEY", "REWARDS", "STOP_REASON", "client_of", "play_episode"]

T = TypeVar("T")

REWARDS = "ors_rewards"
"""Key in a sample's store: the rewards of its episode so far, null for a call without one."""
STOP_REASON = "ors_stop_reason"
"""Key in a sample's store: the stop reason of its episode."""
API_KEY = "ORS_API_KEY"
"""The environment variable for the server's key, as Inspect's logs store all arguments of a task."""


def client_of(url: str) -> tuple[Portal, ORSClient]:
    """This process's client of a server, and the portal that runs it.

    The sessions of a process that is killed are deleted by a :class:`~ors_gym.client.janitor.Janitor`.
    """
    portal = shared_portal()
    key = os.environ.get(API_KEY)
    return portal, portal.client(url, **({} if key is None else {"api_key": key}))


@solver
def play_episode(
    url: str,
    env_name: str,
    *,
    max_turns: int = 32,
    tool_errors: Literal["observe", "fail"] = "observe",
    parallel_tool_calls: bool | Sequence[str] = False,
    toolset: str | None = None,
    secrets: Sequence[str] = (),
) -> Solver:
    """Play one episode of the task given by the sample's metadata (split and index).

    The prompt is the environment's. The episode ends when the environment sends ``finished``, when a message calls no
    tool and the environment has no terminal tool, or after ``max_turns`` messages; Inspect's own limits also end it,
    and the rewards until then are scored. A call that the environment refuses is an error of that tool, shown to the
    model. A failure of the server or the session is an error of the sample.

    Args:
        url: The ORS server; its key is read from ``ORS_API_KEY``.
        env_name: The environment.
        max_turns: Maximum messages of the model in one episode.
        tool_errors: See :class:`~ors_gym.rollouts.options.SessionOptions`, as for ``parallel_tool_calls`` and
            ``toolset``.
        parallel_tool_calls: Which calls of one message run concurrently.
        toolset: The name of a set of tools that the server adds.
        secrets: Environment variables that are sent to the environment as secrets of the same names.
    """
    missing = [name for name in secrets if name not in os.environ]
    if missing:
        raise ValueError(f"the environment variables {', '.join(missing)} are not set")
    parallel = parallel_tool_calls if isinstance(parallel_tool_calls, bool) else tuple(parallel_tool_calls)
    options: SessionOptions = {
        "secrets": {name: os.environ[name] for name in secrets},
        "toolset": toolset,
        "parallel_tool_calls": parallel,
        "tool_errors": tool_errors,
    }

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        portal, client = client_of(url)
        task = TaskRef(env_name, state.metadata["split"], state.metadata["index"])
        session = open_session(client, task, options)
        try:
            await _on(portal, session.open())
            tools = await _on(portal, session.list_tools())
            prompt = await _on(portal, session.get_messages())
            conversation = Conversation(session, prompt, tools.terminal_tool, options)
            await _converse(portal, conversation, tools, state, max_turns)
        finally:  # also when a limit of Inspect cancels the sample
            await asyncio.shield(_on(portal, session.close()))
        return state

    return solve


async def _converse(
    portal: Portal, conversation: Conversation, tools: ToolList, state: TaskState, max_turns: int
) -> None:
    names = ToolNames(tools)
    infos = tool_infos(tools, names)
    state.messages = chat_messages(conversation.prompt, names)
    state.store.set(REWARDS, [])
    stop: StopReason | None = None
    while stop is None:
        state.output = await get_model().generate(state.messages, infos)
        message = state.output.message
        state.messages.append(message)
        exchange = await _on(portal, conversation.play(reply_of(state.output, names)))
        state.messages += answers(exchange, [(call.id, call.function) for call in message.tool_calls or ()])
        rewards: list[JsonValue] = [step.reward for step in exchange.transitions]
        state.store.set(REWARDS, [*state.store.get(REWARDS), *rewards])
        if any(reward is not None for reward in rewards):
            transcript().info({"rewards": rewards}, source="ors_gym")
        stop = conversation.stop_reason
        if stop is None and len(conversation.exchanges) >= max_turns:
            stop = StopReason.MAX_TURNS
    state.store.set(STOP_REASON, str(stop))
    state.completed = True


async def _on(portal: Portal, work: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that runs on the portal's thread; cancelled with its caller."""
    return await asyncio.wrap_future(portal.submit(work))
