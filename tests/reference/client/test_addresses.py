"""Names of the hosted catalogue in place of URLs, and keys from the environment, at every door of the core."""

from __future__ import annotations

import asyncio

import gymnasium as gym
import pytest

import ors_gym  # noqa: F401  (registers the environments)
from ors_gym.cli.main import main
from ors_gym.client.address import Address, with_key
from ors_gym.client.client import ORSClient
from ors_gym.errors import AuthenticationError
from ors_gym.evaluation import evaluate
from ors_gym.policies.policy import RandomPolicy
from tests.support.environments import Counter, Ledger
from tests.support.hosted_platform import HostedPlatform
from tests.support.ors_servers import serve_app
from tests.support.processes import wait_until

ONE, VARIANT = "Someone/Counting", "Someone/Several@counter"
KEY = "key-of-the-platform"


@pytest.fixture
def catalogue(monkeypatch):
    """The double of the platform, its address and a key in the environment."""
    platform = HostedPlatform(
        {ONE: [Counter], "Someone/Several": [Ledger, Counter]}, {ONE: ["LAB_KEY"]}, api_answers=True
    )
    with serve_app(platform) as running:
        for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "ORS_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", running.url)
        monkeypatch.setenv("OPENREWARD_URL", "http://ors.test")
        monkeypatch.setenv("OPENREWARD_API_KEY", KEY)
        yield platform
        wait_until(lambda: not platform.live_sessions)
    assert {headers.get("x-api-key") for _, _, headers in platform.requests} <= {KEY}


def through_the_client(where: str) -> list[str]:
    async def play() -> list[str]:
        async with ORSClient(where) as client:
            (env_name,) = await client.list_environments()
            async with client.session(env_name, split="train", index=1) as session:
                return [(await session.call_tool("add", {"amount": 2})).text]

    return asyncio.run(play())


def through_gym(where: str) -> list[str]:
    env = gym.make("ors_gym/ORS-v0", url=where)
    env.reset(seed=0)
    observation = env.step({"name": "add", "input": {"amount": 2}})[0]
    env.close()
    return [observation]


def through_an_evaluation(where: str) -> list[str]:
    evaluation = asyncio.run(evaluate(where, {"random": RandomPolicy(0)}, split="train", limit=2))
    return ["count 2"] if "random" in evaluation.summary() else []


DOORS = [through_the_client, through_gym, through_an_evaluation]


@pytest.mark.parametrize("where", [ONE, VARIANT])
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_name_of_the_catalogue_is_played_with_the_key_of_the_environment(catalogue, door, where):
    assert door(where) == ["count 2"]


def test_the_command_line_lists_the_catalogue_and_plays_a_name_of_it(catalogue, capsys, monkeypatch):
    monkeypatch.setenv("LAB_KEY", "x")

    assert main(["list"]) == 0
    assert capsys.readouterr().out.split() == [ONE, "Someone/Several"]
    assert main(["list", ONE]) == 0
    assert "needs --secret LAB_KEY (read from the environment variable)" in " ".join(capsys.readouterr().out.split())
    assert main(["rollout", VARIANT, "--episodes", "2", "--max-turns", "2"]) == 0
    assert "Someone/Several/counter" in capsys.readouterr().out


def test_without_a_server_and_a_key_list_says_what_to_set(capsys, monkeypatch):
    for name in ("ORS_API_KEY", "OPENREWARD_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    assert main(["list"]) == 2
    assert "OPENREWARD_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "of_ours", "of_the_platform", "sent"),
    [
        ("http://localhost:8080", "ours", "platform", "ours"),
        ("http://localhost:8080", None, "platform", None),
        ("someone/counting", "ours", "platform", "platform"),
        ("someone/counting", "ours", None, "ours"),
    ],
)
def test_the_key_of_the_platform_goes_to_no_other_server(monkeypatch, where, of_ours, of_the_platform, sent):
    for name, value in (("ORS_API_KEY", of_ours), ("OPENREWARD_API_KEY", of_the_platform)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    assert ORSClient(where).connection.headers.get("X-API-Key") == sent
    assert with_key(where, None, None) == ({} if sent is None else {"api_key": sent})
    assert with_key(where, "given", {"timeout": 1}) == {"timeout": 1, "api_key": "given"}
    assert with_key(where, None, {"headers": {"x-api-key": "h"}}) == {"headers": {"x-api-key": "h"}}
    assert "X-API-Key" not in ORSClient(where, api_key="").connection.headers


@pytest.mark.parametrize("text", ["localhost/x/y", "a.b/c", "http://a/b", "a b/c", "@x", "a/b@"])
def test_anything_but_a_name_of_the_catalogue_is_a_url(text):
    assert Address.of(text) == Address(text)


def test_a_missing_key_is_said_with_where_to_set_it(catalogue, monkeypatch):
    with pytest.raises(AuthenticationError, match="environment variable ORS_API_KEY"):
        asyncio.run(ask_without_key())
    catalogue.requests.clear()


async def ask_without_key() -> None:
    async with ORSClient("http://ors.test", hosted=True, api_key="") as client:
        await client.list_tools(ONE)
