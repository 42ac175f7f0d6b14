"""Every reader of what models, servers, clients and endpoints send, with what it may raise.

A reader gives its value, or refuses with the one kind of error that its callers expect.
"""

from __future__ import annotations

import base64
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ors_gym.dialects import DIALECTS
from ors_gym.errors import ProtocolError
from ors_gym.http.answers import RefusedError
from ors_gym.http.retry import retry_after_seconds
from ors_gym.http.sse import EventDecoder
from ors_gym.json_text import parse_json, read_json
from ors_gym.policies.answer import Origin
from ors_gym.policies.apis import APIS
from ors_gym.policies.names import ToolNames
from ors_gym.policies.refusals import judge
from ors_gym.reporting.records import read_trajectories
from ors_gym.types import GroupScore, Message, Split, ToolList, ToolOutput, ToolSpec
from tests.hostile.inputs import EVENTS, WIRE, Inputs, encoded

__all__ = ["Broken", "core_readers", "readers_of_bodies", "tried"]

TOOLS = (ToolSpec("f", "", {"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}),)
Reading: TypeAlias = Callable[[Inputs], Iterator[Any]]
"""Yields what it was given, then what it read."""
Readers: TypeAlias = dict[str, tuple[Reading, tuple[type[Exception], ...]]]
"""Each reader, and what it may raise."""
Broken: TypeAlias = dict[str, str]
"""What broke, with an input that brought it about."""
FOLDER = tempfile.TemporaryDirectory(prefix="ors-gym-hostile-")


def dialect_reader(name: str) -> Reading:
    """A dialect's reading of a message."""

    def read(inputs: Inputs) -> Iterator[Any]:
        text, flags = inputs.text(), inputs.random.randrange(16)
        tools = (None, (), TOOLS, TOOLS)[flags & 3]
        yield text
        yield DIALECTS[name].parse(text, tools=tools, thinking_open=bool(flags & 4), cut=bool(flags & 8))

    return read


def api_reader(name: str) -> Reading:
    """The reading of a provider's answer."""

    def read(inputs: Inputs) -> Iterator[Any]:
        sound = EVENTS[name]
        events = sound if inputs.random.random() < 0.5 else [inputs.random.choice(sound) for _ in range(4)]
        events = [inputs.damaged(event) for event in events]
        yield events
        answer = APIS[name].answer()
        for event in events:
            if (error := answer.error_of(event)) is None:
                answer.feed(event)
            else:
                judge(inputs.random.choice((None, 400, 429, 503)), {}, error)
        if inputs.random.random() < 0.5:
            answer.end()
        list(answer.pieces())
        answer.finish  # noqa: B018
        names = ToolNames(TOOLS)
        dialect = DIALECTS["plain"] if "plain" in DIALECTS else next(iter(DIALECTS.values()))
        yield answer.reply(dialect, names, TOOLS, origin=Origin("a", "m"), max_tokens=None)

    return read


def of_text(function: Callable[[str], Any]) -> Reading:
    """A reader of JSON texts."""

    def read(inputs: Inputs) -> Iterator[Any]:
        text = inputs.json_text()
        yield text
        yield function(text)

    return read


def of_value(function: Callable[[Any], Any]) -> Reading:
    """A reader of JSON that was read."""

    def read(inputs: Inputs) -> Iterator[Any]:
        value = inputs.value() if inputs.random.random() < 0.2 else inputs.damaged(inputs.random.choice(WIRE))
        yield value
        yield function(value)

    return read


def sse(inputs: Inputs) -> Iterator[Any]:
    """The reading of a stream of events, in random pieces."""
    lines = [
        inputs.random.choice(("data:", "event: ", "id", ":", "")) + inputs.piece()
        for _ in range(inputs.random.randrange(9))
    ]
    data = encoded(inputs.random.choice(("\n", "\r\n", "\r", "\n\n")).join(lines))
    yield data
    decoder = EventDecoder()
    while data:
        size = inputs.random.randrange(1, len(data) + 1)
        decoder.feed(data[:size])
        data = data[size:]
    yield None


def records(inputs: Inputs) -> Iterator[Any]:
    """The reading of a file of records."""
    lines = [inputs.json_text() for _ in range(inputs.random.randrange(4))]
    lines[:0] = inputs.random.choice(([], ['{"type": "run", "version": 2}'], ['{"format": "ors-gym", "version": 2}']))
    yield lines
    path = Path(FOLDER.name, "run.jsonl")
    path.write_bytes(encoded("\n".join(lines)))
    yield list(read_trajectories(path))


def core_readers() -> Readers:
    """Those of the core: models' texts, endpoints' answers, what servers send, and records."""
    made: Readers = {}
    for name in DIALECTS:
        made[f"dialect {name}"] = dialect_reader(name), ()
    for name in APIS:
        made[f"answer of {name}"] = api_reader(name), (ProtocolError,)
    made["JSON"] = of_text(read_json), (ValueError,)
    made["JSON of servers"] = of_text(lambda text: parse_json(encoded(text))), (ProtocolError,)
    made["events"] = sse, (ProtocolError,)
    made["Retry-After"] = of_text(lambda text: retry_after_seconds({"retry-after": text})), ()
    made["record file"] = records, (ValueError,)
    for kind in (Message, Split, ToolSpec, ToolList, ToolOutput, GroupScore):
        made[kind.__name__] = of_value(kind.from_wire), (ProtocolError,)
    return made


def readers_of_bodies() -> Readers:
    """Those of the server."""
    from ors_gym_server.asgi import requests

    made: Readers = {}
    for model in (requests.CallBody, requests.CreateSession, requests.ScoreGroup, requests.TaskRange):
        made[f"body {model.__name__}"] = of_text(partial(body_of, model)), (RefusedError,)
    made["body of a call"] = of_text(lambda text: requests.read_call(encoded(text))), (RefusedError,)
    made["X-Secrets"] = of_text(secrets_of), (RefusedError,)
    return made


def body_of(model: type[Any], text: str) -> Any:
    """A body, read."""
    from ors_gym_server.asgi.requests import read_body

    return read_body(encoded(text), model)


def secrets_of(text: str) -> Any:
    """The secrets of a header."""
    from ors_gym_server.asgi.requests import ClientRequest

    return ClientRequest("s", base64.b64encode(encoded(text)), b"").secrets


def tried(readers: Readers, count: int, seed: int = 0) -> tuple[int, Broken]:
    """Give each reader its share of ``count`` inputs; how many broke, and what, once for each place."""
    inputs, names, bad = Inputs(seed), list(readers), 0
    broke: Broken = {}
    for number in range(count):
        name = names[number % len(names)]
        read, allowed = readers[name]
        steps = read(inputs)
        given = next(steps)
        try:
            next(steps)
        except allowed:
            pass
        except Exception as error:  # what this campaign looks for
            bad += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            broke[f"{name}: {type(error).__name__} at {where}: {str(error)[:80]}"] = f"{given!r:.500}"
    return bad, broke
