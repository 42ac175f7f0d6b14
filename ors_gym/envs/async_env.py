"""The asynchronous environment on which :class:`ORSEnv` and :class:`ORSVectorEnv` are built.

:class:`EnvRecipe` is shared by all members of a vector and read from the server once; :class:`AsyncORSEnv` plays one
episode at a time, each in its own session.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self, TypeAlias, Unpack, get_args

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from ors_gym.client.arguments import check_number, check_type
from ors_gym.client.client import ORSClient, Session
from ors_gym.client.timeouts import Timeouts
from ors_gym.dialects import Action, Dialect, dialect, read_action
from ors_gym.redaction import Secret
from ors_gym.rollouts.exchange import Conversation
from ors_gym.rollouts.options import SessionOptions, open_session, session_options_of
from ors_gym.spaces.spaces import BlocksSpace, MessagesSpace, TextSpace, ToolCallSpace
from ors_gym.trajectory import Exchange, StopReason, TaskRef
from ors_gym.types import (
    ImageBlock,
    Message,
    MessageBlock,
    TextBlock,
    ToolCall,
    ToolList,
    text_of,
)

__all__ = ["CHOICES", "AsyncORSEnv", "EnvOptions", "EnvRecipe", "ObservationMode", "Step", "only_environment"]

ObservationMode: TypeAlias = Literal["text", "messages", "multimodal"]

CHOICES = {"observation_mode": get_args(ObservationMode), "spaces": ("text", "native")}
"""The values of an option, starting with the default."""

TIME_IS_OVER = TextBlock("The episode's time is over.")


class EnvOptions(SessionOptions, total=False):
    """Options of ``gym.make`` and ``gym.make_vec`` besides ``url`` and ``env_name``."""

    split: str | None
    """The split to draw tasks from; by default the first split of type ``train``, else the first."""
    observation_mode: ObservationMode
    """``"text"``: the prompt, then each result's text (str). ``"messages"``: the whole conversation so far (tuple of
    :class:`~ors_gym.types.Message`). ``"multimodal"``: text and images in the environment's order (tuple of blocks)."""
    action_parser: str | Dialect
    """Reads actions given as text: the name of a dialect (``"hermes"`` by default), ``dialect_of(tokenizer)``, or a
    custom one; see :mod:`ors_gym.dialects`."""
    max_turns: int | None
    """Number of steps until the episode is truncated; None: no limit."""
    max_episode_seconds: float | None
    """Seconds from the first observation until the episode is truncated, even during a call."""
    penalty: float
    """Added to the reward for each action that is unreadable, names no tool or is refused. 0.0 by default."""
    api_key: str | Secret | None
    hosted: bool
    spaces: Literal["text", "native"]
    """``"native"``: the environment's own spaces, on servers that serve it from Gymnasium; see
    :class:`~ors_gym.envs.native_env.NativeEnv`."""
    timeouts: Timeouts
    client_options: Mapping[str, Any] | Secret
    """Further arguments of :class:`~ors_gym.ORSClient`."""


class Step(NamedTuple):
    """The result of one action, in Gymnasium's order."""

    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EnvRecipe:
    """An environment of a server and the settings to play it, shared by all its members."""

    client: ORSClient
    env_name: str
    split: str
    num_tasks: int
    tools: ToolList
    observation_mode: ObservationMode = "text"
    dialect: Dialect = field(default_factory=lambda: dialect("hermes"))
    max_turns: int | None = None
    max_episode_seconds: float | None = None
    penalty: float = 0.0
    session_options: SessionOptions = field(default_factory=SessionOptions, repr=False)

    @classmethod
    async def look_up(cls, client: ORSClient, env_name: str | None, **options: Unpack[EnvOptions]) -> Self:
        """Read the environment from the server and check the options against it.

        Raises ValueError for an unknown split or a missing name, listing the known ones; NotFoundError for an unknown
        name.
        """
        if options.get("spaces", "text") != "text":
            raise ValueError("spaces='native' is an option of gym.make and gym.make_vec")
        if env_name is None:
            env_name = await only_environment(client)
        splits, tools = await asyncio.gather(client.list_splits(env_name), client.list_tools(env_name))
        by_name = {split.name: split for split in splits}
        split = options.get("split") or next((s.name for s in splits if s.type == "train"), next(iter(by_name), None))
        if split not in by_name:
            have = ", ".join(map(repr, by_name)) or "none"
            raise ValueError(f"{env_name!r} has no split {split!r}; it has {have}")
        return cls(
            client, env_name, split, await client.num_tasks(env_name, split), tools,
            options.get("observation_mode", "text"), dialect(options.get("action_parser", "hermes")),
            options.get("max_turns"), options.get("max_episode_seconds"),
            options.get("penalty", 0.0), session_options_of(options),
        )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.env_name}:{self.split} at {self.client.url}"

    @property
    def action_space(self) -> ToolCallSpace:
        """Calls of the environment's tools. Text is also an action, but not an element of the space."""
        return ToolCallSpace(self.tools)

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """The space of the observation mode."""
        return _OBSERVATION_SPACES[self.observation_mode]()

    def draw_task(self, rng: np.random.Generator) -> TaskRef:
        """A task of the split, drawn uniformly."""
        if self.num_tasks < 1:
            raise ValueError(f"split {self.split!r} of {self.env_name!r} has no tasks")
        return TaskRef(self.env_name, self.split, int(rng.integers(self.num_tasks)))

    def named_task(self, options: Mapping[str, Any]) -> TaskRef | None:
        """The task in ``reset(options=…)``, by ``task`` (an object) or ``task_index``; None if neither is given."""
        check_type("options", options, Mapping, none=False, what="a mapping")
        check_type("options['task']", options.get("task"), Mapping, what="a mapping")
        check_number("options['task_index']", options.get("task_index"), whole=True)
        unknown = options.keys() - {"task", "task_index"}
        if unknown:
            names = ", ".join(sorted(map(str, unknown)))
            raise ValueError(f"reset accepts the options task and task_index, not {names}")
        if options.get("task") is not None:
            if options.get("task_index") is not None:
                raise ValueError("give either task or task_index, not both")
            return TaskRef(self.env_name, task=options["task"])
        index = options.get("task_index")
        if index is None:
            return None
        if not 0 <= index < self.num_tasks:
            what = f"tasks 0 to {self.num_tasks - 1}" if self.num_tasks else "no tasks"
            raise ValueError(f"no task {index}: split {self.split!r} of {self.env_name!r} has {what}")
        return TaskRef(self.env_name, self.split, int(index))


class AsyncORSEnv:
    """Plays one episode at a time; `reset` and `step` have Gymnasium's semantics.

    A step may contain several calls of one message: they are made in order (or concurrently, see
    ``parallel_tool_calls``), up to one that ends the episode, and their rewards are summed.

    ``info`` of a reset: ``task`` (:class:`~ors_gym.trajectory.TaskRef`), ``session_id``, ``images``. ``info`` of a
    step: ``tool_calls`` and ``outputs`` (each call's complete :class:`~ors_gym.types.ToolOutput`, including metadata
    and images; an unreadable message has one output without a call), ``images`` (of all outputs), ``reward_given``
    (whether the environment gave a reward; otherwise it is 0.0), ``reason`` (only if an action was refused:
    ``not_found``, ``input_validation``, … from the server, ``no_tool_call``, ``invalid_json``, … from the parser,
    ``tool_error`` if the tool raised) and ``stop_reason`` (only at the end).
    """

    def __init__(self, recipe: EnvRecipe) -> None:
        self.recipe = recipe
        self.task: TaskRef | None = None
        self.turn = 0
        self.transcript: list[str] = []
        """The episode as text: the prompt, then actions and results."""
        self.last_image: ImageBlock | None = None
        self._session: Session | None = None
        self._tools: ToolList | None = None
        self._conversation: Conversation | None = None
        self._deadline: float | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def reset(self, task: TaskRef) -> tuple[Any, dict[str, Any]]:
        """Start an episode of ``task`` in a new session; the previous session is closed."""
        self._check_open()
        self._leave()
        options = self.recipe.session_options
        session = open_session(self.recipe.client, task, options)
        self._session, self._tools, self.last_image = session, options.get("tools"), None
        self.task, self.turn = task, 0
        try:
            await session.open()
            if self.recipe.observation_mode == "messages":
                prompt = await session.get_messages()
                blocks = tuple(block for message in prompt for block in message.blocks)
            else:
                blocks = await session.get_prompt()
                prompt = (Message("user", blocks),)
        except BaseException:
            self._leave()
            raise
        self._conversation = Conversation(session, prompt, self.recipe.tools.terminal_tool, options)
        limit = self.recipe.max_episode_seconds
        self._deadline = None if limit is None else asyncio.get_running_loop().time() + limit
        images = self._note_images(blocks)
        self.transcript = [f"{task}\n{text_of(blocks)}"]
        return self._observe(blocks), {"task": task, "session_id": session.id, "images": images}

    async def step(self, action: Action) -> Step:
        """Take one action.

        Raises:
            ResetNeeded: there is no episode, or it has ended.
            ORSError: on infrastructure failure; the episode ends without a return, and `reset` starts another.
        """
        self._check_open()
        conversation = self._conversation
        if conversation is None or self._session is None:
            raise ResetNeeded("there is no episode: call reset first")
        takes_plain_text = self.recipe.tools.terminal_tool is not None
        tools = self._tools or self.recipe.tools
        reply = read_action(action, self.recipe.dialect, tools, takes_plain_text=takes_plain_text)
        limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                if self._time_is_over():
                    conversation.say(reply)
                else:
                    await conversation.play(reply)
        except BaseException as error:
            if not (isinstance(error, TimeoutError) and limit.expired()):
                self._leave()
                raise
        self.turn += 1
        stop_reason = conversation.end
        if stop_reason is None and self._time_is_over():
            stop_reason = StopReason.MAX_SECONDS
            conversation.notify(TIME_IS_OVER)
        elif stop_reason is None and self.turn == self.recipe.max_turns:
            stop_reason = StopReason.MAX_TURNS
        if stop_reason is not None:
            self._leave()
        return self._described(conversation.exchanges[-1], stop_reason)

    def _described(self, exchange: Exchange, stop_reason: StopReason | None) -> Step:
        outputs, blocks = exchange.outputs, exchange.blocks
        given = [output.reward for output in outputs if output.reward is not None]
        refused = [output for output in outputs if not output.ok]
        mistakes = sum(not output.tool_raised for output in refused)
        reward = sum(given, start=0.0) + self.recipe.penalty * mistakes
        info: dict[str, Any] = {
            "tool_calls": tuple(transition.action for transition in exchange.transitions),
            "outputs": outputs,
            "images": self._note_images(blocks),
            "reward_given": bool(given),
        }
        if refused:
            info["reason"] = refused[0].reason or "refused"
        if stop_reason is not None:
            info["stop_reason"] = stop_reason
        calls = exchange.reply.tool_calls or tuple(transition.action for transition in exchange.transitions)
        message = "; ".join(map(_written, calls)) or exchange.reply.text
        self.transcript.append(f"> {message}\n{text_of(blocks)}" + (f"\nreward {reward:g}" if given or reward else ""))
        terminated = stop_reason is not None and stop_reason.terminated
        truncated = stop_reason is not None and stop_reason.truncated
        return Step(self._observe(blocks), reward, terminated, truncated, info)

    async def list_tools(self) -> ToolList:
        """The tools of the current episode, else of the environment; an episode may have more."""
        if self._tools is None and self._session is not None:
            self._tools = await self._session.list_tools()
        return self._tools or self.recipe.tools

    async def close(self) -> None:
        """End the episode and wait until every session is deleted. Idempotent."""
        self._closed = True
        self._leave()
        await asyncio.gather(*self._closing)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedEnvironmentError("the environment is closed")

    def _leave(self) -> None:
        """Close the session without waiting for the server to delete it."""
        session, self._session = self._session, None
        if session is not None:
            closing = asyncio.get_running_loop().create_task(session.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _time_is_over(self) -> bool:
        return self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline

    def _note_images(self, blocks: Sequence[MessageBlock]) -> tuple[ImageBlock, ...]:
        images = tuple(block for block in blocks if isinstance(block, ImageBlock))
        self.last_image = images[-1] if images else self.last_image
        return images

    def _observe(self, blocks: Sequence[MessageBlock]) -> Any:
        match self.recipe.observation_mode:
            case "text":
                return text_of(blocks)
            case "messages":
                return self._conversation.messages if self._conversation else ()
            case "multimodal":
                return tuple(blocks)


_OBSERVATION_SPACES: dict[ObservationMode, type[gymnasium.Space[Any]]] = {
    "text": TextSpace,
    "messages": MessagesSpace,
    "multimodal": BlocksSpace,
}


async def only_environment(client: ORSClient) -> str:
    """The name of the server's only environment.

    Raises:
        ValueError: the server has none, or several; the message has their names.
    """
    names = await client.list_environments()
    if len(names) != 1:
        raise ValueError(f"env_name is required: the server has {', '.join(map(repr, names)) or 'none'}")
    return names[0]


def _written(call: ToolCall) -> str:
    try:
        return f"{call.name} {json.dumps(dict(call.input))}"
    except ValueError:  # not JSON: the call was refused, and is shown unchanged
        return f"{call.name} {call.input!r}"
