"""Games of text: any text is an action, and what was said before is not said again."""

from __future__ import annotations

import gymnasium
import pytest
from gymnasium import spaces

from ors_gym import ORSClient
from ors_gym.spaces import TextSpace, ToolCallSpace
from ors_gym.testing import probe_tasks
from ors_gym.types import text_of
from ors_gym_server import as_ors_environment, create_app
from ors_gym_server.adapters.action_tools import ActionTools, InvalidActionError
from ors_gym_server.adapters.old_gym import OldGymEnv
from tests.support.ors_servers import serve_app

MOVES = ["[left]", "[right]"]


class Cave(gymnasium.Env):  # it repeats all that was said, as TextArena does, and understands two words
    observation_space = action_space = TextSpace()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.places = [int(place) for place in self.np_random.integers(100, size=50)]
        self.said = f"\nYou are in {(options or {}).get('map', 'a cave')}.\nGo [left] or [right].\n"
        return self.said, {"exits": ["left", "right"]}

    def step(self, action):
        told = f"You come to place {self.places.pop()}." if action in MOVES else "What?"
        self.said = f"{self.said.rstrip()}\n> {action}\n{told}\n"
        return self.said, 0.0, False, False, {"exits": ["left"]}


def begun(environment, index=0):
    episode = environment(environment.get_task("train", index))
    episode.setup()
    return episode


def test_what_was_said_before_is_not_said_again():
    environment = as_ors_environment(Cave, name="Cave", info_keys=["exits"], splits={"train": [4]})
    episode = begun(environment)
    assert environment.is_told  # the game says its own rules
    assert text_of(episode.get_prompt()) == (
        "You play Cave.\n\nYou are in a cave.\nGo [left] or [right].\nexits: [left, right]"
    )
    assert text_of(episode.call_tool("step", {"action": "wait"}).blocks) == "> wait\nWhat?\nexits: [left]"
    assert text_of(episode.call_tool("step", {"action": "wait"}).blocks) == "> wait\nWhat?\nexits: [left]"


def test_a_text_that_only_begins_like_the_last_one_is_shown_whole():
    class Door(Cave):
        def step(self, action):
            return "\nYou are in a cave.\nGo [left] or [right]. Or up.", 0.0, True, False, {}

    episode = begun(as_ors_environment(Door, splits={"train": [4]}))
    episode.get_prompt()
    told = text_of(episode.call_tool("step", {"action": "look"}).blocks)
    assert told == "You are in a cave.\nGo [left] or [right]. Or up."


def test_a_task_may_be_a_file_and_no_seed():
    splits = {"train": [{"options": {"map": "castle"}}], "test": [{"options": {"map": "tomb"}, "seed": 3}]}
    environment = as_ors_environment(Cave, splits=splits)
    assert environment.get_task("train", 0) == {"id": "train-0", "options": {"map": "castle"}}
    assert "You are in castle." in text_of(begun(environment).get_prompt())


def test_examples_of_actions_are_read_by_agents_and_played_by_random_policies():
    environment = as_ors_environment(Cave, action_examples=MOVES)
    (tool,) = environment.list_tools().tools
    assert tool.input_schema["properties"]["action"] == {
        "type": "string",
        "description": "Any text",
        "examples": MOVES,
    }
    space = ToolCallSpace(environment.list_tools(), seed=1)
    assert {space.sample().input["action"] for _ in range(50)} == set(MOVES)
    with pytest.raises(ValueError, match="examples are of actions that are texts, not of Discrete"):
        as_ors_environment("FrozenLake-v1", action_examples=MOVES)
    with pytest.raises(ValueError, match="the example 'c' is no action: text of 1 to 3"):
        ActionTools(spaces.Text(3, charset="ab"), examples=["c"])


def test_any_text_is_an_action_within_the_space_s_bounds():
    assert ActionTools(TextSpace()).action("step", {"action": "¿Qué? 你好"}) == "¿Qué? 你好"
    bounded = ActionTools(TextSpace(min_length=1, max_length=3))
    assert bounded.specs[0].input_schema["properties"]["action"]["maxLength"] == 3
    with pytest.raises(InvalidActionError, match="any text of at least 1 and at most 3 characters"):
        bounded.action("step", {"action": "long"})


def test_an_old_environment_without_spaces_is_a_game_of_text():
    class Parrot:
        def reset(self):
            return "Say."

        def step(self, action):
            return action, 0.0, False, {}

    env = OldGymEnv(Parrot)
    assert env.observation_space == env.action_space == TextSpace()
    assert env.step("¡Hola!")[0] == "¡Hola!"


def test_the_probe_asks_for_examples_where_its_moves_were_random_texts(run):
    async def probed(url, name):
        async with ORSClient(url) as client:
            report = await probe_tasks(client, name, "train", num_tasks=4)
        return next(each for each in report.findings if each.name == "different")

    environments = [
        as_ors_environment(Cave, name="Silent"),
        as_ors_environment(Cave, name="Told", action_examples=MOVES),
    ]
    with serve_app(create_app(environments)) as running:
        silent, told = run(probed(running.url, "silent")), run(probed(running.url, "told"))
    assert silent.holds is False
    assert "only random texts were played" in silent.remedy
    assert str(told) == "4 of the first 4 tasks differ"
