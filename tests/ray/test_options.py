"""Options that cannot reach an actor are refused where they are given."""

from __future__ import annotations

import inspect
import ssl

import pytest
import ray

from ors_gym.rollouts.options import SESSION_OPTIONS
from ors_gym_ray import RolloutPool
from tests.support.wrong_arguments import KEY, PASSWORD, SECRET, check_door


def test_a_tls_context_is_refused_naming_the_alternative():
    with pytest.raises(ValueError, match="give verify the path"):
        RolloutPool("https://ors.example", env_name="e", client_options={"verify": ssl.create_default_context()})


def test_a_pool_refuses_wrong_arguments_without_keys_and_before_it_starts_ray():
    base = {
        "url": f"http://user:{PASSWORD}@127.0.0.1:9",
        "client_options": {"api_key": KEY},
        "secrets": {"A": SECRET},
        "address": "no such cluster",
    }
    fits = {
        "env_name": (str,),
        "api_key": (str,),
        "address": (str,),
        "toolset": (str,),
        "parallel_tool_calls": (list,),
        "start_seconds": (float,),
        "actor_options": (dict,),
    }
    names = inspect.signature(RolloutPool).parameters.keys() - {"options"}
    assert check_door(RolloutPool, base, (*names, *SESSION_OPTIONS), fits) > 100
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_actors": 0}, "at least 1"),
        ({"start_seconds": 0}, "start_seconds"),
        ({"actor_options": {"name": "mine"}}, "give name=… to the RolloutPool"),
        ({"policy_placement": "moon"}, "'driver' or 'actors'"),
        ({"actor_options": {"num_cpus": -1}}, "num_cpus"),
        ({"client_options": {"ping_seconds": -1}}, "ping_seconds"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        RolloutPool("http://127.0.0.1:9", **options)
