"""The hosted platform's layout, by its host names, against a double that the reference SDK's client plays on too."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

import gymnasium as gym
import pytest
from openreward import AsyncOpenReward

from ors_gym.client.client import ORSClient
from ors_gym.errors import NotFoundError
from tests.support.environments import Counter, Ledger, Mirror
from tests.support.hosted_platform import HostedPlatform
from tests.support.ors_servers import serve_app
from tests.support.processes import wait_until

URL = "http://ors.test"
KEY = "key-of-the-platform"
ONE, SEVERAL, MIRROR = "Someone/Counting", "Someone/Several", "Someone/Mirror"


@contextlib.contextmanager
def platform_behind(proxy: pytest.MonkeyPatch, *, api_answers: bool) -> Iterator[HostedPlatform]:
    """The double, which every client of this process and of those it starts takes for its proxy."""
    deployments = {ONE: [Counter], SEVERAL: [Ledger, Counter], MIRROR: [Mirror]}
    platform = HostedPlatform(deployments, {MIRROR: ["OPENAI_API_KEY", "LAB"]}, api_answers=api_answers)
    with serve_app(platform) as running:
        for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
            proxy.delenv(name, raising=False)
        proxy.setenv("http_proxy", running.url)
        yield platform
        wait_until(lambda: not platform.live_sessions)


@pytest.fixture(params=[False, True], ids=["sessions-only", "api-too"])
def platform(request, monkeypatch):
    with platform_behind(monkeypatch, api_answers=request.param) as running:
        yield running


@pytest.fixture
def strict_platform(monkeypatch):
    """As the reference SDK of today finds it: the host ``api.`` answers nothing of an environment's."""
    with platform_behind(monkeypatch, api_answers=False) as running:
        yield running


def ask(conversation, **options):
    async def run():
        async with ORSClient(URL, hosted=True, **({"api_key": KEY} | options)) as client:
            return await asyncio.wait_for(conversation(client), 30)

    return asyncio.run(run())


async def count(client: ORSClient, env_name: str) -> str:
    async with client.session(env_name, split="train", index=1) as session:
        await session.get_prompt()
        return (await session.call_tool("add", {"amount": 2})).text


def test_the_reference_client_plays_on_the_double(strict_platform):
    async def conversation() -> None:
        client = AsyncOpenReward(api_key=KEY, base_url=URL)
        try:
            several = client.environments.get(SEVERAL, variant="counter")
            assert await several.num_tasks("train") == 5
            async with several.session(split="train", index=1) as session:
                assert (await session.call_tool("add", {"amount": 2})).reward == 1.0
            assert await client.environments.get(MIRROR).list_required_secrets() == ["OPENAI_API_KEY", "LAB"]
        finally:
            await client.environments.aclose()

    asyncio.run(asyncio.wait_for(conversation(), 30))


@pytest.mark.parametrize("env_name", [ONE, f"{SEVERAL}/counter", f"{SEVERAL}/Counter", f"{ONE}/counter"])
def test_a_deployment_and_a_variant_in_it_are_played(platform, env_name):
    async def conversation(client: ORSClient) -> None:
        assert await client.num_tasks(env_name, "train") == 5
        assert [task["target"] for task in await client.list_tasks(env_name, "test")] == [7]
        assert "add" in [tool.name for tool in await client.list_tools(env_name)]
        assert await count(client, env_name) == "count 2"

    ask(conversation)
    owner_and_name = "/".join(env_name.split("/")[:2])
    of_deployment = [each for each in platform.requests if not each[1].startswith("/v1/")]
    assert {headers.get("x-deployment") for _, _, headers in of_deployment} == {owner_and_name}
    assert {headers.get("x-api-key") for _, _, headers in platform.requests} == {KEY}
    hosts = {path: host for host, path, _ in platform.requests}
    assert hosts["/counter/num_tasks"] == ("api.ors.test" if platform.api_answers else "sessions.ors.test")
    assert {hosts[path] for path in ("/create", "/counter/call", "/delete")} == {"sessions.ors.test"}


@pytest.mark.parametrize("env_name", [SEVERAL, f"{SEVERAL}/unknown", f"{ONE}/ledger"])
def test_one_of_several_environments_is_never_taken_silently(platform, env_name):
    deployment = "/".join(env_name.split("/")[:2])

    async def conversation(client: ORSClient) -> None:
        with pytest.raises(NotFoundError, match=rf"'{deployment}' has .*; name one of several as '{deployment}/"):
            await count(client, env_name)

    ask(conversation)


def test_gym_make_plays_a_variant(strict_platform):
    env = gym.make("ors_gym/ORS-v0", url=URL, env_name=f"{SEVERAL}/counter", api_key=KEY, hosted=True)
    env.reset(options={"task_index": 0})
    assert env.step({"name": "add", "input": {"amount": 1}})[1:3] == (1.0, True)
    env.close()


def test_secrets_carry_the_domains_that_they_may_be_sent_to_and_the_clients_key_is_one(strict_platform, caplog):
    secrets = {"OPENAI_API_KEY": "sk-1", "LAB": ("lab-1", ["lab.example"])}

    async def conversation(client: ORSClient) -> None:
        assert await client.list_required_secrets(MIRROR) == ("OPENAI_API_KEY", "LAB")
        async with client.session(MIRROR, split="train", index=0, secrets=secrets):
            pass

    ask(conversation)
    assert "requires the secrets" not in caplog.text
    (header,) = {headers["x-secrets"] for _, _, headers in strict_platform.requests if "x-secrets" in headers}
    told = json.loads(base64.b64decode(header))
    assert told["OPENAI_API_KEY"] == {"value": "sk-1", "allowed_domains": ["api.openai.com"]}
    assert told["LAB"] == {"value": "lab-1", "allowed_domains": ["lab.example"]}
    for name in ("api_key", "OPENREWARD_API_KEY"):
        assert told[name]["value"] == KEY
        assert {"api.ors.test", "sessions.ors.test"} <= set(told[name]["allowed_domains"])


def test_a_secret_without_a_domain_is_refused(strict_platform):
    async def conversation(client: ORSClient) -> None:
        with pytest.raises(ValueError, match=r"where the secret 'LAB' may be sent to") as caught:
            client.session(MIRROR, split="train", index=0, secrets={"LAB": "lab-value"})
        assert "lab-value" not in str(caught.value)

    ask(conversation)


def test_secrets_that_are_required_and_missing_are_named_once(strict_platform, caplog):
    async def conversation(client: ORSClient) -> None:
        for _ in range(2):
            async with client.session(MIRROR, split="train", index=0, secrets={"OPENAI_API_KEY": "sk-1"}):
                pass

    ask(conversation)
    assert caplog.text.count("requires the secrets LAB: give them in secrets=") == 1


PROGRAM = """
import asyncio, os, sys
from ors_gym.client.client import ORSClient
from ors_gym.client.janitor import Janitor

async def main():
    options = {"hosted": True, "api_key": sys.argv[2]}
    client = ORSClient(sys.argv[1], journal=Janitor(sys.argv[1], options), **options)
    await client.session(sys.argv[3], split="train", index=0).open()
    os._exit(1)

asyncio.run(main())
"""


def test_the_session_of_a_process_that_died_is_deleted_in_its_deployment(strict_platform):
    ended = subprocess.run([sys.executable, "-c", PROGRAM, URL, KEY, f"{SEVERAL}/counter"], timeout=60, check=False)
    assert ended.returncode == 1
    wait_until(lambda: not strict_platform.live_sessions)
    deletions = [headers for _, path, headers in strict_platform.requests if path == "/delete"]
    assert {headers["x-deployment"] for headers in deletions} == {SEVERAL}
