"""A wrong argument at any door is a ValueError in words, and no key or secret is in it."""

from __future__ import annotations

import asyncio
import traceback

import gymnasium as gym
import pytest

import ors_gym
from ors_gym.client.client import ORSClient
from ors_gym.client.timeouts import Timeouts
from ors_gym.envs.async_env import EnvOptions
from ors_gym.rollouts.episode import EpisodeRunner, RolloutLimits
from ors_gym.rollouts.groups import FailurePolicy
from ors_gym.rollouts.options import SESSION_OPTIONS
from tests.support.wrong_arguments import KEY, PASSWORD, SECRET, WRONG, check_door

URL = f"http://user:{PASSWORD}@127.0.0.1:9"
CLIENT = ("api_key", "hosted", "timeouts", "headers", "verify", "cert", "max_connections", "ping_seconds")
FITS = {
    "api_key": (str,),
    "split": (str,),
    "toolset": (str,),
    "env_name": (str,),
    "penalty": (float,),
    "max_episode_seconds": (float,),
    "ping_seconds": (float,),
    "parallel_tool_calls": (list,),
    "timeouts": (),
}


def doors():
    base = {"api_key": KEY, "secrets": {"A": SECRET}, "timeouts": Timeouts(connect_seconds=1)}
    makers = {
        "make": lambda **options: gym.make("ors_gym/ORS-v0", **options),
        "make_vec": lambda **options: gym.make_vec("ors_gym/ORS-v0", **({"num_envs": 1} | options)),
        "register_envs": ors_gym.register_envs,
    }
    for door, make in makers.items():
        yield door, "nothing at all", make, dict(base)
        yield door, "unknown option", make, base | {"url": URL, "nonsense": 1}
        for name in ("url", *(() if door == "register_envs" else ("env_name",)), *EnvOptions.__annotations__):
            for wrong in WRONG:
                if not isinstance(wrong, FITS.get(name, ())):
                    yield door, name, make, base | {"url": URL, name: wrong}
        for name in CLIENT:
            for wrong in WRONG:
                if not isinstance(wrong, FITS.get(name, ())) and not (name == "verify" and isinstance(wrong, str)):
                    yield door, f"client_options[{name!r}]", make, _with_client(base, name, wrong)
    for name in ("num_envs", "group_size", "restarts", "max_episode_steps"):
        yield "make_vec", name, makers["make_vec"], base | {"url": URL, name: "3"}


def _with_client(base, name, wrong):
    options = {key: value for key, value in base.items() if key != name}
    return options | {"url": URL, "client_options": {name: wrong}}


def test_a_wrong_argument_is_a_value_error_without_keys_and_secrets():
    tried = 0
    for door, name, make, options in doors():
        with pytest.raises(ValueError, match=r".") as caught:
            make(**options)
        shown = "".join(traceback.format_exception(caught.value))
        for hidden in (KEY, SECRET, PASSWORD):
            assert hidden not in shown, (door, name)
        tried += 1
    assert tried > 300


def test_a_client_refuses_wrong_arguments():
    for name in CLIENT:
        for wrong in WRONG:
            if not isinstance(wrong, FITS.get(name, ())):
                with pytest.raises(ValueError, match=rf"{name}") as caught:
                    ORSClient("http://127.0.0.1:9", **({"api_key": KEY} | {name: wrong}))
                assert KEY not in str(caught.value)
    with pytest.raises(ValueError, match="url"):
        ORSClient()  # type: ignore[call-arg]


@pytest.mark.parametrize("key", ["two\nlines", "end\r\n", "snow ☃"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key):
    with pytest.raises(ValueError, match="api_key") as caught:
        ORSClient("http://127.0.0.1:9", api_key=key)
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"env_name": ["x"]},
        {"split": 5},
        {"index": "3"},
        {"index": True},
        {"task": "text", "split": None, "index": None},
        {"secrets": [SECRET]},
        {"secrets": {"A": 5}},
        {"secrets": {"A": (SECRET,)}},
        {"toolset": 5},
    ],
)
def test_a_session_refuses_wrong_arguments(options):
    async def conversation() -> None:
        async with ORSClient("http://127.0.0.1:9") as client:
            with pytest.raises(ValueError, match=r".") as caught:
                client.session(**({"env_name": "e", "split": "train", "index": 0} | options))
            assert SECRET not in str(caught.value)

    asyncio.run(conversation())


def test_an_episode_runner_and_its_limits_refuse_wrong_arguments():
    async def conversation() -> None:
        async with ORSClient("http://127.0.0.1:9", api_key=KEY) as client:
            base = {"client": client, "secrets": {"A": SECRET}}
            fits = {"toolset": (str,), "parallel_tool_calls": (list,)}
            assert check_door(EpisodeRunner, base, ("client", "policy", "limits", *SESSION_OPTIONS), fits) > 50
        with pytest.raises(ValueError, match="client"):
            EpisodeRunner(secrets={"A": SECRET})  # type: ignore[call-arg]

    asyncio.run(conversation())
    for kind in (RolloutLimits, FailurePolicy, Timeouts):
        for name in kind.__dataclass_fields__:
            for wrong in WRONG:
                if not (isinstance(wrong, float) and name.endswith("_seconds")):
                    with pytest.raises(ValueError, match=name):
                        kind(**{name: wrong})
