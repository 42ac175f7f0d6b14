"""``ors-gym eval``, ``rescore`` and ``replay`` against a real server: what they print, write, and exit with."""

import json

import pytest

from ors_gym.cli.main import main
from ors_gym.policies.policy import ScriptedPolicy
from ors_gym.types import ToolCall
from tests.support.chat_server import calls, refuses, serve_chat
from tests.support.environments import Counter

add_one = ScriptedPolicy([ToolCall("add", {"amount": 1})] * 99)
add_two = ScriptedPolicy([ToolCall("add", {"amount": 2})] * 99)
ADD_ONE, ADD_TWO = f"{__name__}:add_one", f"{__name__}:add_two"


class Exam(Counter):
    """Counting to 1, 2, … 20 in a split of type test."""

    @classmethod
    def list_tasks(cls, split):
        return [{"id": f"{split}-{target}", "target": target} for target in range(1, 21)]


@pytest.fixture(scope="module")
def exam():
    from tests.support.ors_servers import serve

    with serve(Exam) as running:
        yield running


@pytest.fixture
def cli(capsys):
    def cli(*arguments):
        status = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return status, output.out, output.err

    return cli


def test_two_models_are_compared_and_everything_is_written(cli, exam, tmp_path):
    status, out, _ = cli("eval", exam.url, "--model", ADD_ONE, "--model", ADD_TWO, "--out", tmp_path / "run")
    assert status == 0
    assert f"{ADD_ONE} solves 100 % of tasks like these (95 % interval 82 to 100 %; 20 tasks × 1 epoch" in out
    assert f"{ADD_TWO} is worse than {ADD_ONE}: -50.0 points" in out
    assert "20 scored; 0 failed" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [model["success_rate"]["value"] for model in summary["models"]] == [1.0, 0.5]
    assert summary["comparisons"][0]["verdict"] == "worse"
    assert len((tmp_path / "run" / "run.jsonl").read_text().splitlines()) == 40
    assert "<title>" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("gate", "expected", "words"), [(0.2, 0, "Gate met"), (0.4, 1, "not shown"), (0.9, 1, "missed")]
)
def test_the_exit_status_is_the_gate_at_the_lower_end(cli, exam, tmp_path, gate, expected, words):
    status, out, _ = cli("eval", exam.url, "--model", ADD_TWO, "--fail-below", gate, "--out", tmp_path)
    assert status == expected
    assert words in out


def test_a_broken_server_is_not_a_bad_model(cli, start_server, tmp_path):
    class Broken(Exam):
        def setup(self):
            raise RuntimeError("out of order")

    options = ("--out", tmp_path, "--retries", 0, "--fail-below", 0.5, "--limit", 3)
    status, out, _ = cli("eval", start_server(Broken).url, "--model", ADD_ONE, *options)
    assert status == 3
    assert "no scored episode (3 episodes failed)" in out


def test_a_server_or_endpoint_that_does_not_answer_is_not_a_bad_model(cli, exam, tmp_path):
    status, _, err = cli("eval", "http://127.0.0.1:1", "--model", ADD_ONE, "--out", tmp_path / "a")
    assert (status, "Is the server running" in err) == (3, True)
    with serve_chat() as chat:
        chat.answers = [refuses(401, "bad key")]
        status, out, err = cli("eval", exam.url, "--model", f"openai:tiny@{chat.url}", "--out", tmp_path / "b")
    assert (status, "bad key" in err) == (3, True)
    assert "there is no verdict" in out


def test_the_summary_as_json_is_all_that_is_printed(cli, exam, tmp_path):
    status, out, _ = cli("eval", exam.url, "--model", ADD_ONE, "--tasks", "0,2-3", "--json", "--out", tmp_path)
    assert status == 0
    printed = json.loads(out)
    assert printed == json.loads((tmp_path / "summary.json").read_text())
    assert printed["models"][0]["counts"]["episodes"] == 3


def test_an_endpoint_is_evaluated_and_its_key_is_nowhere(cli, exam, tmp_path):
    with serve_chat() as chat:
        chat.answers = [calls(("add", '{"amount": 1}'))]
        model = f"openai:tiny@{chat.url}"
        options = ("--model-key", "sk-very-secret", "--limit", 4, "--out", tmp_path)
        status, out, _ = cli("eval", exam.url, "--model", model, *options)
    assert status == 0
    assert "openai:tiny solves 100 % of tasks like these" in out
    assert "sk-very-secret" not in out + (tmp_path / "run.jsonl").read_text() + (tmp_path / "report.html").read_text()


def test_a_run_is_resumed_rescored_compared_and_replayed(cli, exam, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli("eval", exam.url, "--model", ADD_TWO, "--out", first)[0] == 0
    status, _, err = cli("eval", exam.url, "--model", ADD_TWO, "--out", first)
    assert status == 2
    assert "continue it with --resume" in err
    assert cli("eval", exam.url, "--model", ADD_TWO, "--out", first, "--resume")[0] == 0
    assert len((first / "run.jsonl").read_text().splitlines()) == 20
    status, out, _ = cli("eval", exam.url, "--model", ADD_ONE, "--out", second, "--compare", first)
    assert status == 0
    assert f"{ADD_ONE} is better than {ADD_TWO} in first: +50.0 points" in out
    status, out, _ = cli("rescore", first, "--success-at", 0.5, "--reward", "last", "--compare", second)
    assert status == 0
    assert f"{ADD_TWO} solves 50 %" in out
    status, out, _ = cli("replay", first, exam.url, "--limit", 5)
    assert status == 0
    assert "5 the same, 0 different, 0 could not be replayed" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "nothing"), "write random, openai:MODEL or module:name"),
        (("--model", "random", "--compare", "nowhere"), "--compare: there is no file nowhere"),
        (("--model", "random", "--tasks", "1-x"), "write indices and ranges"),
        (("--model", "random", "--tasks", "99"), "there is no task 99"),
        (("--model", "random", "--retry-failed"), "--retry-failed needs --resume and --out"),
        (("--model", "random", "--model", "random"), "given twice"),
        (("--model", "random", "--stratify-by", "level"), "stratify_by needs a sample size"),
        (("--model", "random", "--max-failed", "7"), "max_failed must be between 0 and 1"),
        (("--model", "random", "--split", "exam"), "there is no split 'exam'"),
    ],
)
def test_bad_input_is_status_2(cli, exam, tmp_path, options, words):
    status, _, err = cli("eval", exam.url, "--out", tmp_path, *options)
    assert status == 2
    assert words in err


def test_rescoring_another_file_is_bad_input(cli, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    assert cli("rescore", tmp_path / "x.jsonl")[0] == 2
    assert cli("rescore", tmp_path)[0] == 2
