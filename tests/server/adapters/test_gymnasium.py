"""Gymnasium environments as ORS environments: the same episode as in the environment itself."""

from __future__ import annotations

import base64
import io
import os
import re
from typing import Any

import gymnasium
import minigrid.wrappers
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from ors_gym.types import Split, text_of
from ors_gym_server.adapters.gymnasium import GymnasiumEnvironment, as_ors_environment
from ors_gym_server.adapters.gymnasium_episode import Screen
from tests.support.ported import TAXI, call_of

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

pytestmark = [
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning"),  # Box2D, when imported
]

NOT_HERE = ("ors_gym", "phys2d", "tabular")  # our own, and those that need JAX
OLD_API = ("GymV21Environment", "GymV26Environment")  # bridges to the old package, not environments


COMPILED = {"gymnasium.envs.box2d": "box2d", "gymnasium.envs.mujoco": "mujoco"}
"""Packages that not every set of versions has, by the module whose environments need them."""

NO_FILES = "MiniGrid-WFC"  # MiniGrid's wheel lacks the patterns that these are drawn from


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """MuJoCo writes a log where it runs."""
    monkeypatch.chdir(tmp_path)


def newest_specs() -> list[Any]:
    """All registered environments in their newest versions, each with the package that it needs."""
    newest: dict[tuple[str | None, str], EnvSpec] = {}
    for spec in gymnasium.registry.values():
        key = (spec.namespace, spec.name)
        if spec.namespace not in NOT_HERE and spec.name not in OLD_API and not spec.name.startswith(NO_FILES):
            newest[key] = max(newest.get(key, spec), spec, key=lambda each: each.version or 0)
    return [with_need(newest[key]) for key in sorted(newest, key=lambda key: newest[key].id)]


def with_need(spec: EnvSpec) -> Any:
    """The spec as a parameter."""
    package = COMPILED.get(str(spec.entry_point).split(":")[0].rpartition(".")[0])
    return pytest.param(spec, marks=[pytest.mark.needs(package)] if package else [])


def play_beside(ported: type[GymnasiumEnvironment], index: int, max_steps: int) -> int:
    """Play one task in the port and in the environment itself, and compare all they say; how many steps it took."""
    task = ported.get_task("train", index)
    episode, env = ported(task), ported.recipe.make()
    env.action_space.seed(index)
    screen = Screen(ported.recipe, env)
    try:
        episode.setup()
        observation, info = env.reset(seed=task["seed"])
        assert env.observation_space.contains(observation)
        assert episode.get_prompt()[-len(screen.blocks(observation, info)) :] == [*screen.blocks(observation, info)]
        for step in range(max_steps):
            action = env.action_space.sample()
            call = call_of(ported.tools, action)
            output = episode.call_tool(call.name, call.input)
            observation, reward, terminated, truncated, info = env.step(action)
            assert output.ok, output.error
            assert output.reward == float(reward)
            assert output.finished == (terminated or truncated)
            assert output.metadata["terminated"] == terminated
            assert output.metadata["truncated"] == truncated
            assert output.blocks == screen.blocks(observation, info)
            if output.finished:
                return step + 1
        return max_steps
    finally:
        episode.teardown()
        env.close()


@pytest.mark.parametrize("spec", newest_specs(), ids=lambda spec: spec.id)
def test_the_same_seed_and_actions_give_the_same_episode_as_the_environment_itself(spec):
    ported = as_ors_environment(spec, name="Ported")
    assert ported.get_task("train", 0) == {"id": "train-0", "seed": 0}
    for index in range(2):
        assert play_beside(ported, index, max_steps=30) > 0


FrozenLake = as_ors_environment("FrozenLake-v1", is_slippery=False)


def begun(environment: type[GymnasiumEnvironment], index: int = 0) -> GymnasiumEnvironment:
    episode = environment(environment.get_task("train", index))
    episode.setup()
    return episode


def step(episode: GymnasiumEnvironment, **arguments: object):
    return episode.call_tool("step", arguments)


# ---------------------------------------------------------------- what the agent sees


def test_the_prompt_tells_the_task_and_shows_the_first_observation():
    prompt = text_of(begun(FrozenLake).get_prompt())
    assert "You play FrozenLake-v1" in prompt
    assert "Reach goal: +1" in prompt
    assert "Action Space" not in prompt  # its numbers would contradict the named actions
    assert "Each move goes where it is meant to." in prompt
    assert not re.search("slip|argument|customization", prompt)
    assert prompt.endswith("\n\n[S]FFF\nFHFH\nFFFH\nHFFG")


def test_steps_are_shown_by_the_environments_own_drawing():
    output = step(begun(FrozenLake), action="right")
    assert output.text == "S[F]FF\nFHFH\nFFFH\nHFFG"  # neither the number nor the last action of the drawing
    assert (output.reward, output.finished) == (0.0, False)
    assert output.metadata == {"terminated": False, "truncated": False, "info": {"prob": 1.0}}


def test_observations_are_written_with_the_names_of_their_components():
    output = step(begun(as_ors_environment("CartPole-v1")), action="left")
    number = r"-?[\d.e-]+"
    assert re.fullmatch(
        f"cart position: {number}, cart velocity: {number}, pole angle: {number}, pole angular velocity: {number}",
        output.text,
    )


def test_taxi_tells_where_everything_is_and_which_actions_are_of_use():
    text = text_of(begun(as_ors_environment(TAXI, instructions="")).get_prompt())
    assert re.match(r"taxi at row \d, column \d; passenger at [RGYB]; destination [RGYB]\n", text)
    assert re.search(r"\nactions of use now: \w+(, \w+)*$", text)


def test_minigrid_is_drawn_as_a_map_with_the_things_in_view():
    episode = begun(as_ors_environment("MiniGrid-DoorKey-5x5-v0", instructions=""))
    text = text_of(episode.get_prompt())
    assert text.startswith("mission: use the key to open the door and then get to the goal\nYou face ")
    assert "A" in text.splitlines()[-2].split()
    assert "yellow key (1 to the right)" in text
    step(episode, action="right")
    assert "yellow key (1 ahead)" in step(episode, action="done").text
    assert "yellow key (you carry it)" in step(episode, action="pickup").text


def test_observations_that_a_wrapper_has_changed_are_shown_as_they_are():
    def seen_whole():
        return minigrid.wrappers.ImgObsWrapper(gymnasium.make("MiniGrid-Empty-5x5-v0"))

    def pixels():
        return minigrid.wrappers.RGBImgPartialObsWrapper(gymnasium.make("MiniGrid-Empty-5x5-v0"))

    def scaled():
        space = spaces.Box(-1, 1, (1,), np.float64)
        return gymnasium.wrappers.TransformObservation(gymnasium.make(TAXI), lambda at: np.array([at / 500]), space)

    assert text_of(begun(as_ors_environment(seen_whole, instructions="")).get_prompt()).startswith("[[[2, 5, 0],\n")
    _, image = begun(as_ors_environment(pixels, instructions="")).get_prompt()
    assert Image.open(io.BytesIO(base64.b64decode(image.data))).size == (56, 56)
    assert re.match(
        r"\[0\.\d+\]\nactions of use now", text_of(begun(as_ors_environment(scaled, instructions="")).get_prompt())
    )


def test_a_formatter_and_instructions_of_ones_own_are_used():
    def told(at: int, info: dict) -> str:
        return f"at {at}, by chance {info['prob']}"

    lake = as_ors_environment("FrozenLake-v1", render_mode=None, instructions="Walk.", formatter=told)
    assert text_of(begun(lake).get_prompt()) == "Walk.\n\nat 0, by chance 1"


@pytest.mark.needs("box2d")
def test_a_picture_that_is_the_observation_is_an_image():
    (image,) = step(begun(as_ors_environment("CarRacing-v3")), steer=0, gas=1, brake=0).blocks
    picture = Image.open(io.BytesIO(base64.b64decode(image.data)))
    assert (image.mime_type, picture.size) == ("image/png", (96, 96))


def test_the_rendered_picture_comes_with_each_observation_where_asked():
    ported = as_ors_environment("CartPole-v1", render_mode="rgb_array")
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    text, image = step(begun(ported), action="right").blocks
    env.step(1)
    assert text.text.startswith("cart position")
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.data))))
    np.testing.assert_array_equal(drawn, env.render())
    env.close()


# ---------------------------------------------------------------- actions


def test_an_invalid_action_is_refused_without_changing_the_episode():
    careful, careless = begun(FrozenLake), begun(FrozenLake)
    for arguments in ({"action": "jump"}, {"action": 2}, {}):
        refused = step(careless, **arguments)
        assert (refused.ok, refused.reason, refused.reward) == (False, "input_validation", None)
        assert "step takes one of left, down, right, up" in refused.text
    assert careless.call_tool("walk", {}).reason == "not_found"
    for action in ("right", "right", "down"):
        assert step(careful, action=action) == step(careless, action=action)


def test_a_fall_into_a_hole_terminates_and_a_limit_on_steps_truncates():
    episode = begun(FrozenLake)
    step(episode, action="right")
    fallen = step(episode, action="down")
    assert (fallen.finished, fallen.metadata["terminated"], fallen.metadata["truncated"]) == (True, True, False)
    assert step(episode, action="left").reason == "episode_finished"
    short = begun(as_ors_environment("FrozenLake-v1", max_episode_steps=1))
    stopped = step(short, action="left")
    assert (stopped.finished, stopped.metadata["terminated"], stopped.metadata["truncated"]) == (True, False, True)


def test_actions_are_tools_of_their_own_where_asked():
    lake = as_ors_environment("FrozenLake-v1", is_slippery=False, tool_per_action=True)
    assert lake.list_tools().names == ("left", "down", "right", "up")
    assert begun(lake).call_tool("down", {}).text.startswith("SFFF\n[F]HFH\n")


def test_actions_are_called_as_the_author_calls_them():
    pole = as_ors_environment("CartPole-v1", action_names=["push left", "push right"])
    assert step(begun(pole), action="push right").reward == 1.0


@pytest.mark.needs("mujoco")
def test_the_motors_of_a_mujoco_model_are_called_by_their_joints():
    (tool,) = as_ors_environment("Hopper-v5").list_tools()
    assert list(tool.parameters["properties"]) == ["thigh_joint", "leg_joint", "foot_joint"]


# ---------------------------------------------------------------- tasks


def test_tasks_are_seeds_in_splits_without_common_ones():
    names = [split.name for split in FrozenLake.list_splits()]
    assert names == ["train", "validation", "test"]
    seeds = [{task["seed"] for task in FrozenLake.list_tasks(name)} for name in names]
    assert [len(each) for each in seeds] == [FrozenLake.num_tasks(name) for name in names] == [1000, 100, 100]
    assert len(set.union(*seeds)) == 1200
    assert FrozenLake.get_task_range("test", -2) == FrozenLake.list_tasks("test")[-2:]
    with pytest.raises(IndexError, match="1000 tasks"):
        FrozenLake.get_task("train", 1000)


def test_a_task_may_have_options_for_reset_and_a_split_any_name():
    easy = {"seed": 1, "options": {"low": -0.001, "high": 0.001}}
    splits = {"easy": [easy], "even": range(0, 2**40, 2), "odd": range(1, 2**40, 2)}
    pole = as_ors_environment("CartPole-v1", splits=splits, render_mode=None)
    assert pole.list_splits() == [Split("easy", "train"), Split("even", "train"), Split("odd", "train")]
    assert pole.num_tasks("odd") == 2**39
    assert pole.get_task_range("odd", 1000, 1002)[1] == {"id": "odd-1001", "seed": 2003}
    with pytest.raises(NotImplementedError, match="more than 100,000"):
        pole.list_tasks("odd")
    episode = pole(pole.get_task("easy", 0))
    episode.setup()
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=1, options={"low": -0.001, "high": 0.001})
    assert f"cart position: {observation[0]:.5g}" in text_of(episode.get_prompt())


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"train": range(10), "test": range(9, 12)}, "'train' and 'test' have tasks in common"),
        ({"train": range(0, 2**50, 2), "test": [3, 4]}, "in common"),
        ({"train": range(0, 2**50, 2), "test": range(2**49 + 3, 0, -3)}, "in common"),
        ({"train": [1, 2], "test": [{"seed": 2}]}, "in common"),
        ({"train": [-1]}, "seeds are integers of 0 or more"),
        ({"train": range(-5, 3)}, "seeds are integers of 0 or more"),
        ({"train": [{"options": {}}]}, "neither a seed nor options"),
        ({}, "at least one split"),
    ],
)
def test_splits_that_make_no_sense_are_refused(splits, said):
    with pytest.raises(ValueError, match=said):
        as_ors_environment("FrozenLake-v1", splits=splits)


# ---------------------------------------------------------------- what is ported


def test_an_environment_is_named_after_its_id_without_its_version():
    assert FrozenLake.__name__ == "FrozenLake"
    assert as_ors_environment("minigrid:MiniGrid-Empty-5x5-v0").__name__ == "MiniGrid-Empty-5x5"
    assert as_ors_environment("FrozenLake-v1", name="Lake").__name__ == "Lake"


def test_a_factory_is_ported_with_its_wrappers():
    def half(size: Any) -> gymnasium.Env:
        return gymnasium.wrappers.TransformReward(gymnasium.make("CartPole-v1"), lambda reward: reward * size)

    for size in (0.5, np.array([0.5])):  # a few environments give an array of one number
        ported = as_ors_environment(half, size=size)
        assert ported.__name__ == "CartPole"
        assert step(begun(ported), action="left").reward == 0.5


def test_a_factory_chooses_how_it_is_drawn():
    def drawn(render_mode: str | None = None) -> gymnasium.Env:
        return gymnasium.make("FrozenLake-v1", render_mode=render_mode)

    for mode, kinds in [("ansi", ["text"]), ("rgb_array", ["text", "image"]), (None, ["text"])]:
        lake = as_ors_environment(lambda mode=mode: drawn(mode), instructions="")
        assert [block.type for block in begun(lake).get_prompt()] == kinds
    assert len(begun(as_ors_environment(drawn, render_mode="ansi", instructions="")).get_prompt()) == 1


def test_an_environment_with_nested_spaces_is_played():
    class Nested(gymnasium.Env):
        """A nest."""

        action_space = spaces.Dict(
            {"who": spaces.Discrete(2), "what": spaces.Tuple([spaces.Text(3), spaces.Box(0, 1)])}
        )
        observation_space = spaces.Dict({"heard": spaces.Text(9), "grid": spaces.Box(0, 9, (2, 2), np.int64)})

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return {"heard": "nothing", "grid": self.np_random.integers(0, 9, (2, 2))}, {}

        def step(self, action):
            who, (text, loud) = action["who"], action["what"]
            said = {"heard": f"{who} {text}", "grid": np.eye(2, dtype=np.int64)}
            return said, np.float32(loud[0]), np.True_, np.False_, {"raw": np.array([1.0, np.nan]), "odd": {1}}

    nested = as_ors_environment(Nested)
    assert "A nest." in text_of(begun(nested).get_prompt())
    output = step(begun(nested), who=1, what=["hey", [0.5]])
    assert output.text == "heard: 1 hey\ngrid: \n  [[1, 0],\n   [0, 1]]"
    assert (output.reward, output.finished) == (0.5, True)
    assert output.metadata["info"] == {"raw": [1.0, None], "odd": [1]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"render_mode": "ansi"}, "has no render_mode 'ansi'; it has human, rgb_array"),
        ({"render_mode": "human"}, 'must be "auto", "ansi", "rgb_array" or None'),
        ({"action_names": ["left"]}, "do not fit the action space"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        as_ors_environment("CartPole-v1", **options)


def test_an_unknown_id_is_gymnasium_own_error():
    with pytest.raises(gymnasium.error.NameNotFound, match="FrozenLake"):
        as_ors_environment("FrozenLak-v1")


def test_what_the_environment_holds_is_given_back_once():
    closed = []

    class Held(gymnasium.Env):
        action_space = observation_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def close(self):
            closed.append(self)

    episode = begun(as_ors_environment(Held))
    probes = len(closed)
    episode.teardown()
    episode.teardown()
    assert len(closed) == probes + 1
    with pytest.raises(RuntimeError, match="no episode"):
        step(episode, action=1)
