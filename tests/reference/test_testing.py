"""The conformance kit: it passes the reference server, and catches servers that do not speak ORS."""

import inspect
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openreward.environments import Environment, TextBlock, ToolOutput, tool
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ors_gym.testing import STATEMENTS, Check, CheckReport, Outcome, check_server
from tests.support.environments import Counter
from tests.support.ors_servers import serve_app

ALL = [statement.name for statement in STATEMENTS]
NOT_REQUIRED = {"prompt_is_not_stored": "warn", "client_task_ids": "warn"}  # what the reference server lacks


def outcomes(report):
    return {check.name: str(check.outcome) for check in report.checks}


def messages(report):
    return {check.name: check.message for check in report.checks}


@pytest.fixture
def start_app():
    """Start an ASGI app of routes: each answers its value as JSON, or what its function gives."""
    with ExitStack() as stack:

        def start(routes):
            def answer(value):
                async def endpoint(request):
                    given = value() if inspect.isfunction(value) else value
                    return given if isinstance(given, Response) else JSONResponse(given)

                return endpoint

            app = Starlette(routes=[Route(path, answer(value), methods=["GET", "POST"]) for path, value in routes])
            return stack.enter_context(serve_app(app)).url

        yield start


def test_the_reference_server_passes_every_check_and_keeps_no_session(start_server, run):
    server = start_server(Counter)
    report = run(check_server(server.url))
    assert outcomes(report) == dict.fromkeys(ALL, "pass") | NOT_REQUIRED, report
    assert report.ok
    assert report.env_name == "counter"
    assert server.live_sessions == {}


def test_environment_split_and_task_can_be_chosen(counter_server, run):
    report = run(check_server(counter_server.url, env_name="COUNTER", split="train", index=4))
    assert report.ok, report
    assert messages(report)["task"] == "train[4]"


def test_what_is_not_there_is_a_failed_check_and_what_builds_on_it_is_skipped(counter_server, run):
    report = run(check_server(counter_server.url, env_name="chess"))
    assert [check.name for check in report.failed] == ["environments"]
    assert "no 'chess' among counter" in str(report)
    assert outcomes(report)["prompt"] == "skip"
    report = run(check_server(counter_server.url, split="test", index=1))
    assert [check.name for check in report.failed] == ["tasks"]
    assert "has 1 tasks, so no task 1" in str(report)


def test_a_server_that_is_not_there_is_one_failed_check(run):
    report = run(check_server("http://127.0.0.1:1"))
    assert outcomes(report) == {"health": "fail"}
    assert "not reached" in str(report)


def test_no_tool_of_the_environment_runs(start_server, run):
    ran = []

    class Careful(Counter):
        @tool
        def launch(self) -> ToolOutput:
            """Launch."""
            ran.append("launch")
            return ToolOutput(blocks=[TextBlock(text="launched")])

    assert run(check_server(start_server(Careful).url)).ok
    assert ran == []


def test_an_environment_whose_setup_fails_is_caught(start_server, run):
    class Broken(Counter):
        def setup(self):
            raise RuntimeError("no disk left")

    report = run(check_server(start_server(Broken).url))
    assert outcomes(report)["prompt"] == "fail"


def test_an_empty_prompt_and_a_tool_without_words_are_caught(start_server, run):
    class Silent(Counter):
        def get_prompt(self):
            return []

        @tool
        def hum(self) -> ToolOutput:
            return ToolOutput(blocks=[TextBlock(text="hm")])

    report = run(check_server(start_server(Silent).url))
    assert messages(report)["prompt"] == "the prompt is empty"
    assert messages(report)["tool_descriptions"].endswith("which a model needs: hum")
    assert outcomes(report)["tool_descriptions"] == "warn"


def test_an_environment_without_tasks_is_caught(start_server, run):
    class Empty(Environment):
        @classmethod
        def list_splits(cls):
            return ["train"]

        @classmethod
        def list_tasks(cls, split):
            return []

        def get_prompt(self):
            return [TextBlock(text="Nothing.")]

        @tool
        def wait(self) -> ToolOutput:
            """Wait."""
            return ToolOutput(blocks=[])

    report = run(check_server(start_server(Empty).url))
    assert outcomes(report)["tasks"] == "fail"
    assert outcomes(report)["session_opens"] == "skip"


def test_an_invalid_schema_is_caught(start_app, run):
    url = start_app([
        ("/health", {"status": "ok"}),
        ("/list_environments", ["toy"]),
        ("/toy/tools", {"tools": [{"name": "a", "description": "A.", "input_schema": {"type": "strange"}}]}),
    ])  # fmt: skip
    report = run(check_server(url))
    assert outcomes(report)["tools"] == "pass"
    assert messages(report)["tool_schemas"].startswith("a: not a JSON Schema: 'strange'")
    assert messages(report)["splits"] == "GET /toy/splits answered 404, not 200"


def test_split_types_and_repeated_names_are_caught(start_app, run):
    url = start_app([
        ("/list_environments", ["toy"]),
        ("/toy/splits", [{"name": "train", "type": "training"}]),
        ("/toy/tools", {"tools": [{"name": "a"}, {"name": "a"}]}),
        ("/health", Response("<html>", status_code=200)),
    ])  # fmt: skip
    report = run(check_server(url))
    assert messages(report)["splits"] == 'unknown split types: "training"'
    assert messages(report)["tools"] == 'tools with the same name: ["a"]'
    assert "invalid JSON: '<html>'" in messages(report)["health"]


KEYS = ["status", "name", "type", "tools", "description", "input_schema", "num_tasks", "task", "terminal_tool", "sid"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)


def test_any_json_of_a_server_gives_a_report_of_what_is_wrong(start_app, run):
    paths = ["/{env}/splits", "/{env}/tools", "/{env}/num_tasks", "/{env}/task", "/create_session"]
    answers = dict.fromkeys(paths)
    routes = [(path, lambda path=path: answers[path]) for path in paths]
    url = start_app([("/health", {"status": "ok"}), ("/list_environments", ["toy"]), *routes])

    @settings(max_examples=20, deadline=None)
    @given(values=st.lists(json_values, min_size=len(paths), max_size=len(paths)))
    def conversation(values):
        answers.update(zip(paths, values, strict=True))
        report = run(check_server(url, seconds_per_check=5))
        assert [check.name for check in report.checks] == ALL
        assert not report.ok
        assert outcomes(report)["health"] == outcomes(report)["environments"] == "pass"

    conversation()


def test_every_check_has_a_statement(counter_server, run):
    report = run(check_server(counter_server.url))
    assert all(check.statement.endswith(".") and "\n" not in check.statement for check in report.checks)


def test_a_report_reads_as_lines():
    report = CheckReport("http://x", "toy", (Check("health", "It is well.", Outcome.FAIL, "it is not", "1.1"),))
    assert str(report) == "toy at http://x\nfail  1.1 health (required): it is not"
