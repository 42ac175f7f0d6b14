"""The doors of the project: each makes attempts, as many random ones as it is asked for."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ors_gym.client.client import ORSClient
from ors_gym.client.timeouts import Timeouts
from ors_gym.errors import EndpointError, ORSError
from ors_gym.policies.apis import APIS
from ors_gym.policies.endpoint import ChatPolicy, EndpointRefusedError
from ors_gym.policies.policy import Turn
from ors_gym.redaction import visible
from ors_gym.reporting.page import RunRecord, Sample, StepRecord, write_report
from ors_gym.reporting.records import TrajectoryWriter, finished_tasks, read_groups, read_trajectories
from ors_gym.trajectory import Exchange, Failure, Reply, StopReason, TaskRef, Trajectory, Transition
from ors_gym.types import Message, TextBlock, ToolCall, ToolList, ToolOutput, ToolSpec
from tests.hostile import requests
from tests.hostile.attempts import Outcome, made
from tests.hostile.inputs import EVENTS, Inputs
from tests.hostile.readers import core_readers, readers_of_bodies, tried
from tests.hostile.terminal import attempts_of_commands
from tests.support.bad_answers import ENDLESS, ODD_RESULTS, UNREADABLE
from tests.support.programs import running_server
from tests.support.scripted_server import RESULT, ScriptedORS, events, http

__all__ = ["DOORS", "Door"]

Door = Callable[[Inputs, int], Awaitable[Outcome]]
QUICK = Timeouts(
    request_seconds=10,
    first_event_seconds=10,
    silence_seconds=10,
    resume_seconds=1,
    starting_seconds=0.2,
    capacity_seconds=0.2,
    close_seconds=2,
    call_seconds=30,
)
TOOLS = ToolList((ToolSpec("act", "", {"type": "object", "properties": {"s": {"type": "string"}}}),))


async def readers(inputs: Inputs, count: int) -> Outcome:
    """Every reader of text and of JSON."""
    number, broke = tried(core_readers() | readers_of_bodies(), 40 * count, seed=inputs.random.randrange(2**32))
    outcome = Outcome(40 * count, [f"{what} from {given}" for what, given in broke.items()])
    outcome.broke += ["the same again"] * (number - len(broke))
    return outcome


async def servers(num_workers: int, inputs: Inputs, count: int) -> Outcome:
    """A server with this number of workers, as a separate program. It must end when it is asked to."""
    with running_server("tests.support.worker_server", num_workers) as (process, url):
        outcome = await made(await requests.attempts_on(url, "mill", count, inputs))
        process.terminate()
        try:
            _, said = process.communicate(timeout=60)
        except TimeoutError:
            outcome.add("SIGTERM afterwards", "it does not end")
            return outcome
        outcome.add("SIGTERM afterwards", f"it said {said[-1000:]}" if re.search("Traceback|did not end", said) else "")
    return outcome


async def ray_serve(inputs: Inputs, count: int) -> Outcome:
    """The same on Ray Serve, whose own proxies are told to leave our session ids alone."""
    os.environ["RAY_SERVE_SESSION_ID_HEADER_KEY"] = "x-serve-session-id"
    from ray import serve

    from ors_gym_ray import serve_app
    from tests.support.ors_servers import free_port
    from tests.support.paths import ROOT
    from tests.support.ray_clusters import connected, start_cluster
    from tests.support.serve_replica import app_factory

    port = free_port()
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'integrations'}"}
    options = {"num_cpus": 0, "runtime_env": {"env_vars": paths}}
    with start_cluster() as cluster, connected(cluster):
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(serve_app(app_factory, max_sessions_per_replica=64, replica_options=options))
        try:
            return await made(await requests.attempts_on(f"http://127.0.0.1:{port}", "bench", count, inputs))
        finally:
            serve.shutdown()


async def client(inputs: Inputs, count: int) -> Outcome:
    """A server whose answers are damaged, odd or endless: the client plays, or says what is wrong."""
    sound: dict[str, Any] = {
        "list_environments": ["bad"],
        "splits": [{"name": "train", "type": "train"}],
        "tools": {"tools": [{"name": "act", "description": "", "input_schema": None}]},
        "num_tasks": {"num_tasks": 1},
        "task": {"task": {"id": 0}},
        "create_session": {"sid": "s1"},
        "prompt": [{"type": "text", "text": "go"}],
        "call": RESULT,
    }

    def answers() -> dict[str, Any]:
        name = inputs.random.choice(list(sound))
        kind = inputs.random.randrange(4)
        if kind == 0:
            body = inputs.random.randbytes(inputs.random.randrange(200))
            return {name: http(body, inputs.random.choice(("application/json", "text/event-stream", "")))}
        if kind == 1:
            return {name: inputs.random.randbytes(inputs.random.randrange(200)) + b"\r\n\r\n"}
        text = json.dumps(inputs.damaged(sound[name])) if kind == 2 else inputs.json_text()
        if name == "call":
            return {
                name: events(("task_id", "t"), ("end", text.replace("\n", " ").encode("utf-8", "replace").decode()))
            }
        status = inputs.random.choice(("200 OK", "200 OK", "400 No", "429 No", "500 No", "302 Found", "99 x"))
        return {name: http(text.encode("utf-8", "replace"), status=status)}

    async def attempt(given: dict[str, Any]) -> str:
        async with ScriptedORS(given) as server, ORSClient(server.url, timeouts=QUICK) as talking:
            with contextlib.suppress(ORSError):
                await talking.list_environments()
                await talking.list_splits("bad")
                await talking.list_tools("bad")
                await talking.num_tasks("bad", "train")
                await talking.get_task("bad", "train", 0)
                async with talking.session("bad", split="train", index=0) as session:
                    prompt = await session.get_prompt()
                    output = await session.call_tool("act", {})
                    act = ToolCall("act")
                    exchange = Exchange(Reply(tool_calls=(act,)), (Transition(act, output),))
                    task, messages = TaskRef("bad", "train", 0), (Message("user", prompt),)
                    with tempfile.TemporaryDirectory() as folder, TrajectoryWriter(Path(folder, "a.jsonl")) as writer:
                        writer.write(Trajectory("e", task, StopReason.FINISHED, messages, (exchange,)))
        return ""

    known: list[dict[str, Any]] = [{name: answer} for name, answer in UNREADABLE]
    known += [{"call": answer} for answer in ODD_RESULTS]
    known += [{name: answer} for name, answer, _ in ENDLESS.values()]
    given = [*known, *(answers() for _ in range(count))]
    return await made((f"{each!r:.400}", partial(attempt, each)) for each in given)


async def endpoint(inputs: Inputs, count: int) -> Outcome:
    """An endpoint whose answers are damaged: a reply, a failed episode, or the end of the run in words."""

    def answer(api: str) -> bytes:
        kind = inputs.random.randrange(6)
        if kind == 0:
            return inputs.random.randbytes(inputs.random.randrange(200)) + b"\r\n\r\n"
        if kind == 1:
            status = inputs.random.choice(("400 No", "401 No", "404 No", "413 No", "429 No", "500 No", "503 No"))
            after = inputs.random.choice(("", "Retry-After: 99999999999\r\n", f"Retry-After: {'9' * 400}\r\n"))
            return http(inputs.json_text().encode("utf-8", "replace"), status=status, headers=after)
        if kind == 2:
            return http(inputs.json_text().encode("utf-8", "replace"))
        said = [json.dumps(inputs.damaged(event)) for event in EVENTS[api]]
        return http("".join(f"data: {each}\n\n" for each in said).encode(), "text/event-stream")

    async def attempt(api: str, given: bytes) -> str:
        names = ("completions", "responses", "messages", "m:streamGenerateContent", "m:generateContent")
        turn = Turn("e", TaskRef("e", "train", 0), (Message("user", (TextBlock("go"),)),), TOOLS)
        async with (
            ScriptedORS(dict.fromkeys(names, given)) as server,
            ChatPolicy(server.url, "m", api=api, retry_seconds=0.2, silence_seconds=10) as policy,
        ):
            try:
                await policy.act(turn)
            except (EndpointError, EndpointRefusedError) as error:
                return "" if str(error).strip() else "an error without words"
        return ""

    tries = ((api, answer(api)) for api in (inputs.random.choice(list(APIS)) for _ in range(count)))
    return await made((f"{api} {given!r:.400}", partial(attempt, api, given)) for api, given in tries)


async def records(inputs: Inputs, count: int) -> Outcome:
    """Files of records that are torn, damaged, or something else: read, or refused in words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.jsonl")
        with TrajectoryWriter(path) as writer:
            writer.write(played(inputs, "sound"))
        sound = path.read_text().splitlines()

        def damaged() -> bytes:
            lines = [json.dumps(inputs.damaged(json.loads(line))) for line in sound]
            lines += [inputs.json_text()] if inputs.random.random() < 0.3 else []
            data = "\n".join(lines).encode("utf-8", "surrogatepass")
            return data[: inputs.random.randrange(len(data) + 1)] if inputs.random.random() < 0.3 else data

        async def attempt(data: bytes) -> str:
            path.write_bytes(data)
            for read in (read_trajectories, read_groups, finished_tasks):
                with contextlib.suppress(ValueError):
                    list(read(path))
            return ""

        return await made((f"{data!r:.300}", partial(attempt, data)) for data in (damaged() for _ in range(count)))


def played(inputs: Inputs, text: str) -> Trajectory:
    """An episode in which everything that is said is this text."""
    call = ToolCall(text or "x", {text: [text, inputs.value()]})
    output = ToolOutput((TextBlock(text),), reward=1.0, metadata={"a": inputs.value()})
    exchange = Exchange(Reply(text, tool_calls=(call,), reasoning=text), (Transition(call, output),))
    prompt = (Message("user", (TextBlock(text),)),)
    task = TaskRef(text or "e", "train", 0)
    return Trajectory("e", task, StopReason.FAILED, prompt, (exchange,), Failure(text, text))


async def page(inputs: Inputs, count: int) -> Outcome:
    """Texts of models and servers, written to a record and to the page: nothing of them becomes HTML or a control."""
    with tempfile.TemporaryDirectory() as folder:

        async def attempt(text: str) -> str:
            episode, counts = played(inputs, text), {text: 1, "__proto__": 1}
            with TrajectoryWriter(Path(folder, "run.jsonl")) as writer:
                writer.write(episode)
            steps = [StepRecord(1, 1.0, 1, 0.5, failures=counts, tool_calls=counts)]
            record = RunRecord(text, text, {text: text}, steps=steps, samples=[Sample(episode, 1, text)])
            html = write_report(Path(folder, "page.html"), record).read_text(encoding="utf-8")
            if len(re.findall("<script", html, re.IGNORECASE)) != 2:
                return "a script was added"
            _, _, data = html.partition('type="application/json"')
            shown = json.dumps(json.loads(data.partition(">")[2].partition("</script>")[0]), ensure_ascii=False)
            return "" if visible(shown) == shown else "controls are on the page"

        texts = [
            "</script><script>x()</script>",
            "<!--",
            "\x1b]52;c;eA==\x07",
            "\u202eabc",
            "__proto__",
            "\ud800",
        ]
        texts += [inputs.text() for _ in range(count)]
        return await made((f"{text!r:.300}", partial(attempt, text)) for text in texts)


async def terminal(inputs: Inputs, count: int) -> Outcome:
    """What servers say, on a terminal."""
    return await made(attempts_of_commands(inputs, count // 3))


async def sandbox(inputs: Inputs, count: int) -> Outcome:
    """Programs in each sandbox of this machine: what its report says it holds, it holds."""
    from tests.sandbox.test_attempts import METHODS, outcomes

    outcome = Outcome()
    for method in METHODS[:2] if count else METHODS[:1]:
        for name, (holds, came_off, seen) in (await outcomes(method) or {}).items():
            if holds:  # what a report says does not hold is no promise
                outcome.add(f"{method}: {name}", seen if came_off else "")
    return outcome


def _doors() -> Iterator[tuple[str, Door]]:
    yield "readers", readers
    yield "server", partial(servers, 1)
    yield "workers", partial(servers, 2)
    yield "Ray Serve", ray_serve
    yield "client", client
    yield "endpoint", endpoint
    yield "records", records
    yield "page", page
    yield "terminal", terminal
    yield "sandbox", sandbox


DOORS: dict[str, Door] = dict(_doors())
