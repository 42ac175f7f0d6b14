"""The command line, against a real server: what it prints, and its exit status."""

import io
import json
import sys

import pytest
from openreward.environments import TextBlock, ToolOutput, tool

from ors_gym.cli.main import main
from ors_gym.policies.policy import ScriptedPolicy
from ors_gym.reporting.records import finished_tasks, read_groups, read_trajectories
from ors_gym.types import ToolCall
from tests.support.chat_server import calls, refuses, serve_chat
from tests.support.environments import Counter
from tests.support.providers.anthropic import AnthropicDouble
from tests.support.providers.base import Says, serve_stage
from tests.support.providers.google import GoogleDouble
from tests.support.providers.responses import ResponsesDouble

add_one = ScriptedPolicy([ToolCall("add", {"amount": 1})] * 9)
not_a_policy = object()
ADD_ONE = f"{__name__}:add_one"


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command line with an input; gives its status, output and errors."""

    def cli(*arguments, typed=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        status = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return status, output.out, output.err

    return cli


def test_list_names_environments_splits_and_tools_with_their_arguments(cli, counter_server):
    status, out, _ = cli("list", counter_server.url)
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:3] == ["counter", "train 5 tasks", "test 1 task"]
    assert "add(amount?: integer) Add to the count." in lines
    assert "echo(text: string) Say it again." in lines


def test_check_passes_the_reference_server(cli, counter_server):
    status, out, _ = cli("check", counter_server.url)
    assert status == 0
    assert "24 passed, 0 failed, 2 recommendations not met, 0 skipped" in out


def test_check_says_what_was_expected_and_fails(cli, start_server):
    class Silent(Counter):
        def get_prompt(self):
            return []

    status, out, _ = cli("check", start_server(Silent).url)
    assert status == 1
    assert "the prompt is empty" in out
    assert "Required: GET /{env}/prompt returns at least one block" in out


def test_an_episode_is_played_from_a_script_of_moves(cli, counter_server):
    moves = 'look\n\n:tools\nadd {"amount": "many"}\njump\nadd [1]\nadd {"amount\nadd {"amount": 3}\nnever read\n'
    status, out, _ = cli("play", counter_server.url, "--split", "train", "--index", 2, typed=moves)
    assert status == 0
    for expected in (
        "counter:train[2]\nCount to 3.",
        "> look\ncount 0\n[an image: image/png, 9 bytes]\nreward 0\n",
        "refused (input_validation): ",
        "refused (not_found): ",
        'Invalid input (it is not a JSON object). Write: add {"name": "value"}',
        '> add {"amount": 3}\ncount 3\nreward 1\nThe episode is over. Sum of the rewards: 1\n',
    ):
        assert expected in out
    assert out.count("add(amount?: integer)") == 2
    assert "never read" not in out
    assert counter_server.live_sessions == {}


@pytest.mark.parametrize("typed", ["", "look\n", "look\n:quit\nlook\n"])
def test_leaving_early_closes_the_session(cli, counter_server, typed):
    status, out, _ = cli("play", counter_server.url, typed=typed)
    assert status == 0
    assert out.endswith("You left before the end of the episode.\n")
    assert counter_server.live_sessions == {}


def test_an_environment_cannot_drive_the_terminal(cli, start_server):
    class Hostile(Counter):
        def get_prompt(self):
            return [TextBlock(text="\x1b]0;owned\x07\x9b2J [red]not markup[/red] \u2028ü🙂")]

    _, out, _ = cli("play", start_server(Hostile).url)
    assert "\ufffd]0;owned\ufffd\ufffd2J [red]not markup[/red] \u2028ü🙂" in out


def test_a_tool_that_raises_is_shown_and_the_episode_continues(cli, counter_server):
    status, out, _ = cli("play", counter_server.url, typed='crash\nadd {"amount": 1}\n')
    assert status == 0
    assert "Error: the counter broke" in out
    assert "The episode is over. Sum of the rewards: 1" in out


def test_a_tool_that_fails_the_episode_is_one_clear_line(cli, counter_server):
    status, _, err = cli("play", counter_server.url, "--tool-errors", "fail", typed="crash\n")
    assert status == 1
    assert err.startswith("ors-gym: ")
    assert "the counter broke" in err
    assert err.count("\n") == 1
    assert counter_server.live_sessions == {}


def test_episodes_of_a_policy_are_summed_up_and_written_as_a_page(cli, counter_server, tmp_path):
    page = tmp_path / "report.html"
    options = ("--env", "COUNTER", "--split", "test", "--max-turns", 3, "--episodes", 6, "--group-size", 2)
    status, out, _ = cli("rollout", counter_server.url, *options, "--policy", ADD_ONE, "--report", page)
    assert status == 0
    assert "task 3/3" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "mean return 0.000 (6 of 6 episodes scored, 6 without a reward, 0 failed)" in lines
    assert "stop reasons max_turns 6" in lines
    assert "tool calls add 18" in lines
    assert "failures none" in lines
    assert f"The report is at {page.as_uri()}" in lines
    assert "Count to 7." in page.read_text()
    assert counter_server.live_sessions == {}


def test_the_same_seed_plays_the_same_random_moves(cli, start_server):
    class Quiet(Counter):
        @tool
        def crash(self) -> ToolOutput:
            """Do nothing."""
            return ToolOutput(blocks=[])

    url = start_server(Quiet).url
    options = ("--episodes", 4, "--max-turns", 5, "--concurrency", 1)
    summaries = [cli("rollout", url, *options, "--seed", 3)[1].partition("mean return")[2] for _ in range(2)]
    assert summaries[0] == summaries[1]
    assert "stop reasons" in summaries[0]


def test_a_rollout_in_which_everything_breaks_is_a_failure(cli, start_server):
    class Broken(Counter):
        def get_prompt(self):
            raise RuntimeError("no prompt today")

    status, out, _ = cli("rollout", start_server(Broken).url, "--episodes", 2)
    assert status == 1
    assert "none given" in out


def test_secrets_reach_the_environment_and_no_page(cli, start_server, tmp_path, monkeypatch):
    class Telling(Counter):
        def __init__(self, task_spec={}, secrets={}):  # noqa: B006
            super().__init__(task_spec, secrets)
            self.secrets = secrets

        def get_prompt(self):
            return [TextBlock(text=f"I was told {sorted(self.secrets.items())}")]

    server = start_server(Telling)
    monkeypatch.setenv("SECOND_KEY", "swordfish")
    secrets = ("--secret", "FIRST_KEY=open=sesame", "--secret", "SECOND_KEY")
    _, out, _ = cli("play", server.url, *secrets)
    assert "open=sesame" in out
    assert "swordfish" in out
    page = tmp_path / "report.html"
    options = ("--episodes", 1, "--policy", ADD_ONE, "--report", page, "--api-key", "opensesame2")
    cli("rollout", server.url, *options, *secrets)
    text = page.read_text()
    assert "I was told" in text
    assert not any(secret in text for secret in ("open=sesame", "swordfish", "opensesame2"))


def test_a_key_in_an_endpoints_address_is_on_no_page(cli, counter_server, tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://models.example/v1?key=opensesame")
    cli("rollout", counter_server.url, "--episodes", 1, "--policy", ADD_ONE, "--report", page)
    assert "opensesame" not in page.read_text()

    with serve_chat() as chat:
        chat.answers = [calls(("add", '{"amount": 1}'))]
        endpoint = ("--policy", "openai:m", "--base-url", f"{chat.url}?key=swordfish")
        cli("rollout", counter_server.url, "--episodes", 1, *endpoint, "--report", page)

    assert f"{chat.url}/chat/completions" in page.read_text()
    assert "swordfish" not in page.read_text()


def test_a_model_at_an_endpoint_plays(cli, counter_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-swordfish")
    with serve_chat() as chat:
        chat.answers = [calls(("add", '{"amount": 2}'), tokens=3)]
        endpoint = ("--policy", "openai:m", "--base-url", chat.url, "--sampling", "temperature=0.5")
        options = ("--sampling", "stop=END", "--episodes", 3, "--max-tokens", 50, "--json")
        status, out, _ = cli("rollout", counter_server.url, *endpoint, *options)

    assert status == 0
    summary = json.loads(out)
    assert (summary["episodes"], summary["policy"], summary["tokens"]) == (3, "openai:m", 12)
    assert summary["mean_return"] == pytest.approx(1 / 3)
    body, headers = chat.bodies[0], chat.headers[0]
    assert (body["model"], body["temperature"], body["stop"], body["max_tokens"]) == ("m", 0.5, "END", 50)
    assert headers["authorization"] == "Bearer sk-swordfish"


@pytest.mark.parametrize(
    ("spec", "make", "variable"),
    [
        ("responses:m", ResponsesDouble, "OPENAI"),
        ("anthropic:m", AnthropicDouble, "ANTHROPIC"),
        ("google:m", GoogleDouble, "GEMINI"),
    ],
)
def test_a_model_plays_by_the_api_of_its_provider(cli, counter_server, monkeypatch, tmp_path, spec, make, variable):
    monkeypatch.setenv(f"{variable}_API_KEY", "sk-double")
    records = tmp_path / "run.jsonl"
    with serve_stage() as stage:
        double = stage.put(make(), Says("One.", calls=(("add", '{"amount": 1}'),)))
        endpoint = ("--policy", spec, "--base-url", stage.url, "--sampling", "max_tokens=900", "--out", records)
        status, out, _ = cli("rollout", counter_server.url, *endpoint, "--episodes", 1, "--json")

    assert status == 0
    assert (json.loads(out)["policy"], json.loads(out)["mean_return"]) == (spec, 1.0)
    assert "900" in json.dumps(double.bodies[0])
    assert not double.refusals
    assert "sk-double" not in records.read_text()
    (exchange,) = json.loads(records.read_text())["exchanges"]
    counts = [exchange[f"num_{kind}tokens"] for kind in ("prompt_", "cached_", "reasoning_", "")]
    assert counts == [100, 64, 12, 20]


def test_an_endpoint_that_refuses_is_one_clear_line_and_its_key_is_not_in_it(cli, counter_server):
    with serve_chat() as chat:
        chat.answers = [refuses(401, "bad key sk-swordfish")]
        endpoint = ("--policy", "openai:m", "--base-url", chat.url, "--model-key", "sk-swordfish")
        status, out, err = cli("rollout", counter_server.url, *endpoint)

    assert status == 1
    assert "the endpoint answered 401: bad key ••••••" in err
    assert "sk-swordfish" not in out + err
    assert err.count("\n") == 1
    assert counter_server.live_sessions == {}


def test_only_json_is_printed_on_request(cli, counter_server):
    options = ("--episodes", 4, "--group-size", 2, "--policy", ADD_ONE, "--json")
    status, out, _ = cli("rollout", counter_server.url, *options)

    assert status == 0
    summary = json.loads(out)
    assert summary.pop("seconds") > 0
    assert summary == {
        "ended": "finished",
        "env": "counter",
        "split": "train",
        "policy": ADD_ONE,
        "groups": 2,
        "dropped_groups": 0,
        "episodes": 4,
        "scored": 4,
        "unrewarded": 0,
        "failed": 0,
        "mean_return": 1.0,
        "return_std": 0.0,
        "mean_turns": 1.5,
        "tokens": 0,
        "stop_reasons": {"finished": 4},
        "tool_calls": {"add": 6},
        "tool_errors": 0,
        "failures": {},
    }


def test_a_run_is_written_and_continues_where_it_stopped(cli, counter_server, tmp_path):
    path = tmp_path / "runs" / "train.jsonl"
    options = ("--group-size", 2, "--policy", ADD_ONE, "--out", path)
    status, out, _ = cli("rollout", counter_server.url, *options, "--episodes", 4)
    assert status == 0
    assert f"The episodes are in {path}" in out
    assert [group.task.index for group in sorted(read_groups(path), key=lambda group: group.task.index)] == [0, 1]
    with path.open("ab") as file:
        file.write(b'{"format": "ors-gym/tr')

    _, out, _ = cli("rollout", counter_server.url, *options, "--episodes", 14, "--resume", "--json")

    assert json.loads(out)["episodes"] == 14  # those of the file included
    played = finished_tasks(path)
    assert {task.index: count for task, count in played.items()} == {0: 2, 1: 2, 2: 1, 3: 1, 4: 1}

    _, out, _ = cli("rollout", counter_server.url, *options, "--episodes", 14, "--resume", "--json")
    assert (json.loads(out)["episodes"], len(list(read_trajectories(path)))) == (14, 14)


def test_another_run_does_not_continue_the_same_file(cli, counter_server, tmp_path):
    path = tmp_path / "train.jsonl"
    options = ("--policy", ADD_ONE, "--out", path, "--episodes", 1)
    cli("rollout", counter_server.url, *options)

    status, _, err = cli("rollout", counter_server.url, *options, "--max-turns", 3, "--resume")

    assert status == 2
    assert "was recorded with max_turns=32, not 3" in err


def test_what_broke_is_said_last_and_another_task_is_played_in_its_place(cli, start_server):
    class Fragile(Counter):
        def get_prompt(self):
            if self.target == 1:
                raise RuntimeError("no prompt for one")
            return super().get_prompt()

    options = ("--episodes", 4, "--group-size", 2, "--policy", ADD_ONE, "--retries", 0)
    status, out, _ = cli("rollout", start_server(Fragile).url, *options, "--incomplete", "refill")

    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "stop reasons finished 4, failed 2" in lines
    assert "dropped groups 1 of 3" in lines
    assert any(line.startswith("last failure") and "no prompt for one" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["list", "{url}", "--env", "chess"], "there is no environment 'chess'; choose one of counter"),
        (["play", "{url}", "--split", "dev"], "there is no split 'dev'; choose one of train, test"),
        (["list", "localhost:8080"], "begins with http:// or https://"),
        (["check", "ftp://localhost"], "begins with http:// or https://"),
        (["play", "{url}", "--secret", "NOT_IN_THE_ENVIRONMENT"], "set the environment variable of that name"),
        (["list"], "name a server"),
        (["rollout", "{url}", "--policy", "greedy"], "write random, openai:MODEL or module:name"),
        (
            ["rollout", "{url}", "--policy", "openai:m", "--base-url", "localhost"],
            "must start with http:// or https://",
        ),
        (["rollout", "{url}", "--policy", "openai:m", "--sampling", "temperature"], "write NAME=VALUE"),
        (["rollout", "{url}", "--sampling", "temperature=1"], "is for --policy openai:MODEL"),
        (["rollout", "{url}", "--resume"], "give --out"),
        (["rollout", "{url}", "--out", "README.md"], "already exists: continue it with --resume"),
        (["rollout", "{url}", "--out", __file__, "--resume"], "line 1 is not a trajectory"),
        (["rollout", "{url}", "--out", "tests", "--resume"], "--out: [Errno 21] Is a directory: 'tests'"),
        (["rollout", "{url}", "--report", "tests"], "--report: [Errno 21] Is a directory"),
        (["rollout", "{url}", "--report", "README.md/page.html"], "--report: [Errno 17] File exists: 'README.md'"),
        (["rollout", "{url}", "--policy", "openai:"], "write random, openai:MODEL or module:name"),
        (["rollout", "{url}", "--policy", "no.such:policy"], "No module named 'no'"),
        (["rollout", "{url}", "--policy", f"{__name__}:absent"], "has no attribute 'absent'"),
        (["rollout", "{url}", "--policy", f"{__name__}:not_a_policy"], "has no method act"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(cli, counter_server, arguments, complaint):
    status, out, err = cli(*(argument.replace("{url}", counter_server.url) for argument in arguments))
    assert (status, out) == (2, "")
    assert err.startswith("ors-gym: ")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["dance"], ["rollout", "http://x", "--episodes", "0"]])
def test_a_command_line_that_makes_no_sense_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: ors-gym" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "play", "rollout"])
def test_a_server_that_is_not_there_is_one_clear_line_and_status_1(cli, command):
    status, _, err = cli(command, "http://127.0.0.1:1")
    assert status == 1
    assert "Is the server running at this address" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["list"], ["check"], ["play"], ["rollout"]])
def test_help_teaches_by_example(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([*command, "--help"])
    assert exit.value.code == 0
    if command in ([], ["play"], ["rollout"]):
        assert "http://localhost:8080" in capsys.readouterr().out
