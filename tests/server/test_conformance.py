"""The server against the reference server: the same conversations over the same classes, answered the same.

The drivers are bare requests, the reference client, TRL's adapter and our client. What is different, and stated:

=============================  ===========================================  ==========================================
of                             the reference server                         ours
=============================  ===========================================  ==========================================
``/create``                    ``{"sid"}``                                  also ``"client_task_ids": true``
``/call`` with an unknown      ``error``: unknown task_id                   a call under that name; an ``error`` only if
``task_id``                                                                 it was made and is no longer kept
a tool or ``setup`` raised     the message                                  the exception's name before it, secrets
                                                                            blanked, at most 16,384 characters
a toolset cannot be made       its tools are not found                      each call is an ``error`` that says why
a property of the class is     it runs                                      it does not
called as a tool
a reward of NaN or infinity    ``null``                                     ``error`` that names the tool
``CancelledError`` in a tool   no answer                                    ``error``
a path without an environment  308 to the first environment                 answered as the first environment
an unknown environment         308, then 404                                404 that says which there are
a malformed body               422 with details                             422 with details that differ
an unknown field of a body     422                                          ignored
secrets in ``/create``'s body  422                                          taken
``HEAD``, ``OPTIONS``          405                                          as ``GET``; 200 with ``Allow``
``/delete`` of no session      200                                          404 if there never was one
the same id created twice      both 200 while the constructor runs          400
after an expiry or a timeout   404                                          410 with the reason
``/delete_session``            nothing                                      the same as ``/delete``
no key, too many, too large    served                                       401, 429, 413, where so configured
``/ping`` while it constructs  404                                          200
``/version``                   the SDK's                                    ours
``/task_range`` where          500 if ``get_task`` is synchronous           answered
``list_tasks`` has nothing
events                         cut every 4,096 characters                   every 16,384, never at white space
synchronous tools of a         different ones at once                       one at a time, on one thread, unless
session                                                                     ``concurrent``
=============================  ===========================================  ==========================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from openreward.api.environments.client import EnvironmentsAPI
from openreward.environments import Server

from ors_gym import ORSClient
from ors_gym.errors import ORSError
from ors_gym.testing import check_server
from ors_gym_server import create_app
from tests.support.environments import Counter, Essay, Ledger, Mirror
from tests.support.ors_servers import serve_app
from tests.support.server_environments import Extras, Large, Workshop
from tests.support.server_recorder import Exchange, Recorder

CLASSES = (Workshop, Large, Counter, Mirror, Essay, Ledger)
NAMES = tuple(cls.name().lower() for cls in CLASSES)
ERROR_NAMES = ("RuntimeError: ", "ValueError: ", "TypeError: ", "ToolFailed: ")


@dataclass
class Peer:
    """A server with a recorder in front of it."""

    url: str
    recorder: Recorder


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Peer, Peer]]:
    with contextlib.ExitStack() as stack:
        recorders = [Recorder(app, NAMES) for app in (Server(list(CLASSES)).app, create_app(CLASSES))]
        urls = [stack.enter_context(serve_app(recorder)).url for recorder in recorders]
        yield tuple(Peer(url, recorder) for url, recorder in zip(urls, recorders, strict=True))  # type: ignore[misc]


@pytest.fixture
def peers(servers: tuple[Peer, Peer]) -> tuple[Peer, Peer]:
    for peer in servers:
        peer.recorder.taken()
    return servers


def is_shared(exchange: Exchange) -> bool:
    """Whether both servers see this: pings come by the clock, and ours takes secrets in the body of ``/create``."""
    secrets_refused = exchange.status == 422 and "secrets" in (exchange.asked or {})
    return exchange.path != "/ping" and not secrets_refused


def as_stated(exchange: Exchange) -> Exchange:
    """The exchange without the differences that are stated above."""
    answered = exchange.answered
    if exchange.path == "/create" and isinstance(answered, dict):
        answered = {key: value for key, value in answered.items() if key != "client_task_ids"}
    if exchange.path == "/create" and isinstance(exchange.asked, dict):  # the header carries them to the other server
        asked = {name: value for name, value in exchange.asked.items() if name != "secrets"}
        exchange = replace(exchange, asked=asked)
    if exchange.status in (404, 405, 422):  # refused before or after the body was read
        exchange = replace(exchange, asked=None)
    if exchange.status == 422:
        answered = "details"
    if isinstance(answered, dict) and answered.get("events"):
        answered = {
            "events": [[name, _unnamed(data) if name == "error" else data] for name, data in answered["events"]]
        }
    if isinstance(answered, dict) and isinstance(answered.get("detail"), str):
        detail = answered["detail"]
        answered = {
            "detail": "Not Found" if detail.startswith(("unknown environment", "nothing is at")) else _unnamed(detail)
        }
    if isinstance(exchange.asked, dict) and "task_id" in exchange.asked:
        exchange = replace(exchange, asked={k: v for k, v in exchange.asked.items() if k != "task_id"})
    return replace(exchange, answered=answered)


def _unnamed(text: str) -> str:
    for name in ERROR_NAMES:
        text = text.removeprefix(name)
    return text


def assert_same(peers: tuple[Peer, Peer], *, at_least: int) -> None:
    theirs, ours = [[as_stated(each) for each in peer.recorder.taken() if is_shared(each)] for peer in peers]
    assert len(theirs) >= at_least
    assert [(each.method, each.path, each.asked) for each in ours] == [(e.method, e.path, e.asked) for e in theirs]
    differences = [f"ours:   {mine}\ntheirs: {its}" for mine, its in zip(ours, theirs, strict=True) if mine != its]
    assert not differences, "\n\n".join(differences)


def request(client: httpx.Client, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else None
    json = None if isinstance(body, bytes) else body
    return client.request(method, path, json=json, content=content, headers=headers, follow_redirects=True)


DISCOVERY: list[tuple[str, str, Any]] = [
    ("GET", "/health", None),
    ("GET", "/list_environments", None),
    *[("GET", f"/{name}/{what}", None) for name in NAMES for what in ("tools", "splits")],
    ("GET", "/WorkShop/tools", None),
    ("GET", "/tools", None),
    ("GET", "/nowhere/tools", None),
    ("GET", "/workshop/nothing", None),
    ("POST", "/workshop/tools", {}),
    ("GET", "/workshop/tasks", None),
    *[("POST", f"/{name}/tasks", {"split": "train"}) for name in NAMES],
    *[("POST", f"/{name}/num_tasks", {"split": "train"}) for name in NAMES],
    ("POST", "/workshop/tasks", {"split": "odd"}),
    ("POST", "/tasks", {"split": "odd"}),
    ("POST", "/workshop/tasks", {"split": "nowhere"}),
    ("POST", "/workshop/num_tasks", {"split": "nowhere"}),
    ("POST", "/workshop/tasks", {}),
    ("POST", "/workshop/tasks", b"{"),
    *[("POST", "/workshop/task", {"split": "train", "index": index}) for index in (0, 6, 7, -1, -8, "1", 1.5, None)],
    *[("POST", "/large/task", {"split": "train", "index": index}) for index in (0, 10**9 - 1, 10**9, -1)],
    *[
        ("POST", f"/{name}/task_range", {"split": "train", "start": start, "stop": stop})
        for name in ("workshop", "large")
        for start, stop in ((0, 3), (-3, None), (5, 2), (-4, -2), (10**9 - 2, 10**9 + 5), (2, 2))
    ],
    ("POST", "/workshop/task_range", {"split": "train"}),
    ("POST", "/workshop/task_range", {"split": "nowhere"}),
]


def test_discovery_and_its_refusals_are_answered_the_same(peers: tuple[Peer, Peer]):
    for peer in peers:
        with httpx.Client(base_url=peer.url) as client:
            for method, path, body in DISCOVERY:
                request(client, method, path, body)
    assert_same(peers, at_least=len(DISCOVERY))


CREATIONS: list[Any] = [
    {"task_spec": {}, "env_name": "nowhere"},
    {"split": "train", "index": 7},
    {"split": "nowhere", "index": 0},
    {"split": "train"},
    {"task_spec": {}, "split": "train", "index": 0},
    {},
    {"task_spec": {}, "toolset_name": "Nothing"},
    {"task_spec": {}, "env_name": "counter"},  # its constructor raises
    {"split": "train", "index": 2, "env_name": "Workshop"},
    {"split": "train", "index": 2},  # there already
]

SESSION: list[tuple[str, str, Any]] = [
    ("POST", "/ping", None),
    ("GET", "/workshop/prompt", None),
    ("GET", "/prompt", None),
    ("GET", "/counter/prompt", None),  # the session is of the workshop all the same
    ("GET", "/nowhere/prompt", None),
    ("GET", "/workshop/messages", None),
    ("GET", "/workshop/task_tools", None),
    *[
        ("POST", "/workshop/call", {"name": name, "input": input})
        for name, input in (
            ("saw", {"length": 3}),
            ("saw", {"length": 0}),
            ("saw", {"length": "4", "kind": "mitre"}),
            ("saw", {}),
            ("saw", {"length": 3, "more": 1}),
            ("measure", {}),
            ("measure", {"ignored": 1}),
            ("open_drawer", {}),
            ("open_drawer", {}),
            ("clamp", {"text": "lone \\ud800 surrogate"}),
            ("clamp", {"text": "x" * 10_000 + " " * 10_000}),
            ("polish", {"text": "\u3000é\u2028"}),
            ("saw_badly", {}),
            ("wrong", {}),
            ("setup", {}),
            ("no_tool", {}),
            ("", {}),
            ("no such", {"a": [1]}),
        )
    ],
    ("POST", "/workshop/call", {"name": "saw"}),
    ("POST", "/workshop/call", {"name": 1, "input": {}}),
    ("POST", "/workshop/call", {"name": "saw", "input": []}),
    ("POST", "/workshop/call", b"no json"),
    ("POST", "/workshop/call", b'{"name": "clamp", "input": {"text": "\\ud800"}}'),
    ("POST", "/workshop/score_group", {"candidates": []}),
    (
        "POST",
        "/workshop/score_group",
        {"candidates": [{"messages": [{"role": "user", "blocks": [{"type": "text", "text": "a"}]}]}, {"messages": []}]},
    ),
    ("POST", "/workshop/score_group", {"candidates": [{"messages": [{"role": "nobody", "blocks": []}]}]}),
    ("POST", "/workshop/call", {"name": "ship", "input": {}}),
    ("POST", "/workshop/call", {"name": "saw", "input": {"length": 3}}),
    ("POST", "/workshop/call", {"name": "measure", "input": {}}),
    ("POST", "/workshop/call", {"name": "no such", "input": {}}),
    ("GET", "/workshop/prompt", None),
    ("POST", "/delete", None),
    ("POST", "/ping", None),
    ("GET", "/workshop/prompt", None),
    ("GET", "/workshop/task_tools", None),
    ("POST", "/workshop/call", {"name": "measure", "input": {}}),
    ("POST", "/delete", None),
    ("POST", "/delete_session", None),
]


def test_a_session_and_its_refusals_are_answered_the_same(peers: tuple[Peer, Peer]):
    secrets = "eyJLRVkiOiB7InZhbHVlIjogInMzY3JldCJ9fQ=="
    for peer in peers:
        with httpx.Client(base_url=peer.url) as client:
            opened = request(client, "POST", "/create_session").text
            headers = {"X-Session-ID": opened.split("data: ")[1].split()[0], "X-Secrets": secrets}
            for body in CREATIONS:
                request(client, "POST", "/create", body, **headers)
            for method, path, body in SESSION:
                request(client, method, path, body, **headers)
            request(client, "POST", "/ping")
            request(client, "POST", "/create", {"task_spec": {}})
    assert_same(peers, at_least=len(SESSION) + len(CREATIONS))


def test_a_toolset_requested_by_name_is_answered_the_same(peers: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch):
    from openreward.toolsets import BUILTIN_TOOLSETS

    monkeypatch.setitem(BUILTIN_TOOLSETS, "Extras", Extras)
    for peer in peers:
        with httpx.Client(base_url=peer.url) as client:
            headers = {"X-Session-ID": "with-extras"}
            for env_name in ("mirror", "workshop"):  # the first has not what the toolset works on
                body = {"env_name": env_name, "split": "train", "index": 0, "toolset_name": "Extras"}
                request(client, "POST", "/create", body, **headers)
            request(client, "GET", "/workshop/task_tools", **headers)
            for name, input in (("saw", {"text": "a"}), ("saw", {"length": 1}), ("clamp", {"text": "a"}), ("sign", {})):
                request(client, "POST", "/workshop/call", {"name": name, "input": input}, **headers)
            request(client, "POST", "/workshop/call", {"name": "varnish", "input": {}}, **headers)
            request(client, "POST", "/delete", **headers)
    assert_same(peers, at_least=9)


def test_a_property_is_not_a_tool(peers: tuple[Peer, Peer], run: Callable):
    async def conversation(url: str) -> Any:
        async with ORSClient(url) as client, client.session("workshop", split="train", index=0) as session:
            return (await session.call_tool("price")).reason

    assert run(conversation(peers[1].url)) == "not_found"


def reference_conversation(url: str) -> list[Any]:
    """What the reference client makes of a server."""
    said: list[Any] = []
    with EnvironmentsAPI(base_url=url, api_key="") as api:
        for variant, index in (("workshop", 1), ("mirror", 0), ("counter", 4)):
            environment = api.get(variant, variant=variant)
            said += [environment.list_splits(), environment.list_tools(), environment.num_tasks("train")]
            said += [environment.get_task("train", index), environment.get_task_range("train", 0, 2)]
            with environment.session(split="train", index=index) as session:
                said += [session.get_prompt(), session.list_tools()]
                for name, input in (
                    ("saw", {"length": 3}),
                    ("polish", {"text": " \u3000"}),
                    ("open_drawer", {}),
                    ("add", {"amount": 9}),
                    ("add", {"amount": 9}),
                    ("give", {"blocks": [{"type": "text", "text": "x  \n  " * 9000}], "reward": 0.5}),
                    ("crash", {}),
                ):
                    try:
                        said.append(session.call_tool(name, input))
                    except Exception as error:  # what the client calls it is compared
                        said.append((type(error).__name__, _unnamed(str(error))))
    return [str(each).replace(url, "URL") for each in said]


def test_the_reference_client_cannot_tell_the_servers_apart(peers: tuple[Peer, Peer]):
    theirs, ours = [reference_conversation(peer.url) for peer in peers]
    assert [(mine, its) for mine, its in zip(ours, theirs, strict=True) if mine != its and "x  " not in its] == []
    assert_same(peers, at_least=40)


def test_text_that_the_reference_client_damages_arrives_whole_from_our_server(peers: tuple[Peer, Peer]):
    text = "    if x:\u3000\u00a0\u2028\u0085   return\n" * 4000
    heard = []
    for peer in peers:
        with EnvironmentsAPI(base_url=peer.url, api_key="") as api:
            with api.get("mirror", variant="mirror").session(split="train", index=0) as session:
                heard.append(session.call_tool("give", {"blocks": [{"type": "text", "text": text}]}).blocks[0].text)
    assert heard[1] == text
    assert heard[0] != text  # if this fails the reference has been mended, and the server's escapes may go


def trl_conversation(url: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What TRL's adapter makes of a server."""
    for name in ("OPENREWARD_API_URL", "OPENREWARD_SESSION_URL"):  # else it looks for sub-domains
        monkeypatch.setenv(name, url)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.openreward import OpenRewardSpec

    spec = OpenRewardSpec(url, num_tasks=2)
    environment = spec.environment_factory()
    said: list[Any] = [spec.train_dataset.to_list()]
    for index in (1, 0):
        said += [environment.reset(task_index=index), environment.saw(length=3), environment.saw(length=0)]  # type: ignore[attr-defined]
        said += [environment.ship(), environment.reward, environment.saw(length=3)]  # type: ignore[attr-defined]
    environment._close()
    spec._sdk_client.close()
    return [str(each).replace(url, "URL") for each in said]


def test_trls_adapter_cannot_tell_the_servers_apart(peers: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch):
    theirs, ours = [trl_conversation(peer.url, monkeypatch) for peer in peers]
    assert ours == theirs
    assert_same(peers, at_least=20)


async def our_conversation(url: str) -> list[Any]:
    """What our client makes of a server."""
    said: list[Any] = []
    async with ORSClient(url) as client:
        for env_name, index in (("workshop", 1), ("mirror", 0), ("essay", 0)):
            said += [await client.list_splits(env_name), await client.list_tools(env_name)]
            async with client.session(env_name, split="train", index=index, secrets={"KEY": "s3cret"}) as session:
                said += [await session.get_prompt(), await session.get_messages(), await session.list_tools()]
                said += [await session.call_tool(name, {"text": "a"}) for name in ("saw", "clamp", "ship", "clamp")]
                said.append(await session.call_terminal_tool("over"))
                with contextlib.suppress(ORSError):
                    await session.call_tool("saw_badly")
    return said


def test_our_client_reads_the_same_from_both(peers: tuple[Peer, Peer], run: Callable):
    theirs, ours = [run(our_conversation(peer.url)) for peer in peers]
    assert ours == theirs
    assert_same(peers, at_least=20)


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_passes_the_conformance_kit(peers: tuple[Peer, Peer], name: str, run: Callable):
    report = run(check_server(peers[1].url, env_name=name))
    assert report.ok, report
