"""What TRL's own OpenReward adapter is tested for, and what it gets wrong, asked of ORSRollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

import tests.support.ors_servers  # noqa: F401  (first: it silences the SDK's log, which is set up on import)

# isort: split
from openreward.environments import Environment, TextBlock, ToolOutput, tool
from openreward.environments.types import ListToolsOutput, ToolSpec
from pydantic import BaseModel, Field

from ors_gym import RolloutLimits, ToolCall
from ors_gym_trl import ORSRollouts
from tests.support.ors_servers import RunningServer, free_port, serve
from tests.support.trl_runs import AT_ONCE, closed_rollouts, one_thread, play, token_sum
from tests.support.trl_says import Says

__all__ = ["one_thread", "play"]  # fixtures

WORDS = ("hello", "world", "trl", "gym")


class Spoken(BaseModel):
    text: str
    tone: Literal["plain", "loud"] = "plain"
    times: int | None = Field(default=None, ge=1, le=3)


class Echo(Environment):
    """Wants the task's word said back."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012  (cleared by each test that reads it)

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"id": f"echo-{word}", "target": word} for word in WORDS]

    def get_prompt(self):
        return [TextBlock(text=f"Call echo with the word {self.task_spec['target']}.")]

    @tool
    def echo(self, params: Spoken) -> ToolOutput:
        """Say a word."""
        self.asked.append(params.model_dump(exclude_unset=True))
        match = params.text == self.task_spec["target"]
        return ToolOutput(
            blocks=[TextBlock(text="match" if match else "no match")], reward=float(match), finished=match
        )

    @tool
    def half(self) -> ToolOutput:
        """Be paid for nothing."""
        return ToolOutput(blocks=[TextBlock(text="half")], reward=0.5)

    @tool
    def crash(self) -> ToolOutput:
        """Fail."""
        raise RuntimeError("the echo broke")

    @tool(shared=False)
    def hint(self) -> ToolOutput:
        """Tell the word."""
        return ToolOutput(blocks=[TextBlock(text=self.task_spec["target"])])

    def list_task_tools(self):
        named = [ToolSpec(name=name, description="", input_schema=None) for name in ("web.search", "class", "reset")]
        hint = ToolSpec(name="hint", description="Tell the word.", input_schema=None)
        return ListToolsOutput(tools=[hint, *named])


class Other(Echo):
    """The server's second environment."""

    def get_prompt(self):
        return [TextBlock(text="the other one")]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Echo, Other) as running:
        yield running


@pytest.fixture
def echo(server: RunningServer) -> Iterator[Callable[..., ORSRollouts]]:
    Echo.asked.clear()

    def make(*calls: ToolCall, env_name: str = "echo", max_turns: int = 2, **options: Any) -> ORSRollouts:
        options = {"failures": AT_ONCE, "max_turn_tokens": 1, "limits": RolloutLimits(max_turns=max_turns)} | options
        return rollouts_of(env_name=env_name, parser=Says(*calls), **options)

    with closed_rollouts(server) as rollouts_of:
        yield make


def say(text: str, **arguments: Any) -> ToolCall:
    return ToolCall("echo", {"text": text, **arguments})


def test_nothing_is_asked_of_the_server_until_something_is_wanted():
    with ORSRollouts(f"http://127.0.0.1:{free_port()}", env_name="echo", eval_split="train"):
        pass


@pytest.mark.parametrize(
    ("options", "indices"), [({}, [0, 1, 2, 3]), ({"max_tasks": 2}, [0, 1]), ({"tasks": [0, 2]}, [0, 2])]
)
def test_the_dataset_has_the_requested_tasks(echo: Callable, options: dict, indices: list[int]):
    rows = echo(**options).train_dataset["prompt"]

    assert [row[-1]["ors"]["index"] for row in rows] == indices


def test_the_model_reads_its_task_and_every_tool_with_its_schema_whole(echo: Callable, play: Callable):
    columns, _ = play(echo(say("hello")), 0)

    for text in columns["prompt_text"]:
        assert "Call echo with the word hello." in text
        for name in ("echo", "hint", "web.search", "class", "reset"):
            assert f'"{name}"' in text
        for schema in ('"plain"', '"loud"', '"minimum": 1', '"maximum": 3'):
            assert schema in text


def test_the_right_word_pays_one_and_ends_the_episode_at_once(echo: Callable, play: Callable):
    columns, batch = play(echo(say("hello"), max_turns=5), 0)

    assert columns["ors_return"] == [1.0] * 4
    assert [member.num_turns for member in batch.trajectories] == [1] * 4
    assert all("match" not in text for text in columns["completion_text"]), "what follows the end teaches nothing"


def test_a_wrong_word_pays_nothing_and_the_episode_continues(echo: Callable, play: Callable):
    columns, batch = play(echo(say("goodbye")), 0)

    assert columns["ors_return"] == [0.0] * 4
    assert [member.num_turns for member in batch.trajectories] == [2] * 4
    assert all("no match" in text for text in columns["completion_text"])


@pytest.mark.parametrize(("reward", "worth"), [("last", 1.0), ("sum", 1.5), ("max", 1.0)])
def test_the_rewards_of_an_episode_are_reduced_as_chosen(echo: Callable, play: Callable, reward: str, worth: float):
    columns, _ = play(echo(ToolCall("half"), ToolCall("hint"), say("hello"), reward=reward), 0)

    assert columns["ors_return"] == [worth] * 4


def test_episodes_do_not_see_each_other(echo: Callable, play: Callable):
    columns, _ = play(echo(say("hello")), 0, 1)

    assert columns["ors_return"] == [1.0] * 4 + [0.0] * 4


def test_the_named_environment_is_the_one_that_is_played(echo: Callable, play: Callable):
    columns, _ = play(echo(say("hello"), env_name="other"), 0)

    assert all("the other one" in text for text in columns["prompt_text"])


def test_two_rollouts_do_not_share_tools_or_tasks(echo: Callable, play: Callable):
    first, second = echo(say("hello"), tasks=[0]), echo(say("world"), tasks=[1])

    assert play(first, 0)[0]["ors_return"] == play(second, 0)[0]["ors_return"] == [1.0] * 4


def test_a_crash_has_no_reward_whatever_the_earlier_rewards(echo: Callable, play: Callable):
    working = echo(say("hello"))
    crashing = echo(ToolCall("half"), ToolCall("crash"), name="crashing", tool_errors="fail")
    with ORSRollouts.mix(working, crashing) as mixed:
        columns, batch = play(mixed, 0, 4)

    assert columns["ors_return"] == [1.0] * 4 + [None] * 4
    assert [sum(mask) for mask in columns["env_mask"][4:]] == [0] * 4
    assert all("the echo broke" in failure.message for failure in batch.groups[1].failures)


def test_an_omitted_argument_is_omitted_and_not_null(echo: Callable, play: Callable):
    play(echo(say("hello", tone="loud")), 0)

    assert Echo.asked == [{"text": "hello", "tone": "loud"}] * 4


def test_a_bad_argument_is_shown_to_the_model(echo: Callable, play: Callable):
    columns, _ = play(echo(say("hello", tone="silent"), truncated_reward=0.0), 0)

    assert columns["ors_return"] == [0.0] * 4
    assert all("plain" in text and "loud" in text for text in columns["completion_text"])


def test_no_session_is_open_while_the_trainer_trains(echo: Callable, play: Callable, server: RunningServer):
    play(echo(say("hello")), 0, 1, 2, 3)

    assert not server.live_sessions


def test_a_reward_function_of_ones_own_can_read_the_trajectories(echo: Callable, play: Callable):
    columns, batch = play(echo(say("hello")), 0)

    assert columns["ors_trajectory"] == list(batch.trajectories)
    assert len(token_sum(**columns)) == 4
