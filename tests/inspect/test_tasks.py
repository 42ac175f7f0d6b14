"""ORS environments played by Inspect: real server, Inspect's own evaluation, models that are written here."""

from __future__ import annotations

import json
import math
import statistics

import pytest

pytest.importorskip("inspect_ai", reason="make test-inspect has it")

from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import ChatMessageTool, ChatMessageUser, ContentImage, ModelOutput, ModelUsage, get_model

from ors_gym.policies.names import ToolNames
from ors_gym.types import ToolSpec
from ors_gym_inspect import ors_task
from ors_gym_inspect.messages import tool_infos
from tests.support.programs import running_server


@pytest.fixture(scope="module")
def url():
    with running_server("tests.support.riddle_server", 0) as (_, url):
        yield url


USAGE = ModelUsage(input_tokens=10, output_tokens=5, total_tokens=15)  # without it Inspect fetches a tokenizer


def calls(name: str, **arguments):
    return ModelOutput.for_tool_call("mockllm/model", name, arguments).model_copy(update={"usage": USAGE})


def says(text: str):
    return ModelOutput.from_content("mockllm/model", text).model_copy(update={"usage": USAGE})


def play(task, act, tmp_path, **options) -> EvalLog:
    """Play a task with a model that does what ``act`` says of the messages so far."""

    def answer(messages, tools, tool_choice, config):
        return act(messages)

    model = get_model("mockllm/model", custom_outputs=answer, memoize=False)
    [log] = inspect_eval(task, model=model, log_dir=str(tmp_path), display="none", fail_on_error=False, **options)
    return log


def number_of(messages) -> int:
    return int(next(each for each in messages if each.role == "user").text.split()[1].strip("?"))


def of(log: EvalLog, label: str, epoch: int = 1) -> EvalSample:
    return next(sample for sample in log.samples if (sample.id, sample.epoch) == (label, epoch))


def look_then_answer(messages):
    """Looks, is refused, breaks a tool, and answers; riddles of even numbers rightly."""
    number = number_of(messages)
    turn = sum(each.role == "assistant" for each in messages)
    moves = [calls("look"), calls("answer", text="x"), calls("shout"), calls("fly")]
    right = f"answer {number}" if number % 2 == 0 else "no idea"
    return moves[turn] if turn < len(moves) else calls("answer", text=right)


def test_an_episode_is_played_to_its_finish_and_scored_by_its_rewards(url, tmp_path):
    log = play(ors_task(url, "riddle"), look_then_answer, tmp_path)

    assert log.status == "success"
    solved, wrong, broken = of(log, "exam[0]"), of(log, "exam[1]"), of(log, "exam[3]")
    system, question = solved.messages[:2]
    assert (system.role, system.text) == ("system", "You solve riddles.")
    assert any(isinstance(part, ContentImage) for part in question.content)
    results = [each for each in solved.messages if isinstance(each, ChatMessageTool)]
    assert any(isinstance(part, ContentImage) for part in results[0].content)
    assert [each.error and each.error.type for each in results] == [None, "parsing", "unknown", "parsing", None]
    assert "too loud" in results[2].error.message
    assert results[-1].text == "right"
    assert solved.scores["episode_return"].value == 1.25
    assert solved.scores["episode_return"].metadata["rewards"] == [0.25, None, None, None, 1.0]
    assert solved.scores["episode_success"].value == 1.0
    assert (wrong.scores["episode_return"].value, wrong.scores["episode_success"].value) == (0.25, 0.0)
    # A failure of the server is an error of the sample, without a score.
    assert "no riddle today" in broken.error.message
    assert broken.scores is None or not broken.scores
    assert len(solved.messages) == 2 + 2 * 5  # nothing after `finished`


def test_rewards_are_reduced_and_silence_is_worth_what_the_task_says(url, tmp_path):
    task = ors_task(url, "riddle", tasks=[0, 1], reward="last", unrewarded=-1.0)

    def act(messages):
        if number_of(messages) == 1:
            return says("I give up.")
        return look_then_answer(messages)

    log = play(task, act, tmp_path)

    assert of(log, "exam[0]").scores["episode_return"].value == 1.0
    gave_up = of(log, "exam[1]")
    assert gave_up.scores["episode_return"].value == -1.0
    assert gave_up.scores["episode_return"].metadata["unrewarded"] is True
    assert gave_up.scores["episode_return"].metadata["stop_reason"] == "policy_stopped"


def test_a_plain_message_goes_to_the_terminal_tool(url, tmp_path):
    def act(messages):
        refused = any(isinstance(each, ChatMessageUser) and "at least 3" in each.text for each in messages)
        return says("written well") if refused else says("x")

    log = play(ors_task(url, "essay"), act, tmp_path)

    sample = of(log, "test[0]")
    assert sample.scores["episode_success"].value == 1.0
    assert sample.messages[-1].text == "thank you"
    assert len(sample.messages) == 5  # the refused message, and the one that was taken


def test_limits_end_an_episode_and_what_was_given_until_then_counts(url, tmp_path):
    ours = play(ors_task(url, "riddle", tasks=[0], max_turns=2), lambda _: calls("look"), tmp_path)
    theirs = play(ors_task(url, "riddle", tasks=[0]), lambda _: calls("look"), tmp_path, message_limit=8)

    assert ours.samples[0].scores["episode_return"].metadata["stop_reason"] == "max_turns"
    assert ours.samples[0].scores["episode_return"].value == 0.5
    assert theirs.samples[0].limit.type == "message"
    assert theirs.samples[0].scores["episode_return"].value == 0.75


def test_errors_are_of_the_means_by_task_and_clustered_on_request(url, tmp_path):
    plain = play(ors_task(url, "riddle", tasks=[0, 1, 2, 4, 5], epochs=2), look_then_answer, tmp_path)
    clustered = play(ors_task(url, "riddle", tasks=[0, 1, 2, 4, 5], cluster_by="topic"), look_then_answer, tmp_path)

    values = [1.0, 0.0, 1.0, 1.0, 0.0]
    metrics = {score.name: score.metrics for score in plain.results.scores}["episode_success"]
    assert metrics["mean"].value == pytest.approx(0.6)
    assert metrics["stderr"].value == pytest.approx(statistics.stdev(values) / math.sqrt(5))
    metrics = {score.name: score.metrics for score in clustered.results.scores}["episode_success"]
    groups = [(0.4, -0.6), (0.4,), (0.4, -0.6)]
    cr1 = math.sqrt(3 / 2 * sum(sum(group) ** 2 for group in groups)) / 5
    assert metrics["stderr"].value == pytest.approx(cr1)
    assert of(clustered, "exam[4]").metadata["topic"] == "topic 2"


def test_keys_and_secrets_are_in_no_log(url, tmp_path, monkeypatch):
    monkeypatch.setenv("ORS_API_KEY", "key-of-the-server")
    monkeypatch.setenv("PASSWORD", "open-sesame-1")

    play(ors_task(url, "riddle", tasks=[0], secrets="PASSWORD"), look_then_answer, tmp_path, log_format="json")

    [written] = [path.read_text() for path in tmp_path.glob("*.json")]
    assert "PASSWORD" in written
    assert "open-sesame-1" not in written
    assert "key-of-the-server" not in written


def test_a_schema_that_inspect_cannot_hold_stands_whole_in_the_description():
    simple = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    wide = {**simple, "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"oneOf": [{"const": 1}]}}}
    titled = {**simple, "title": "Params", "properties": {"title": {"type": "string", "title": "Title"}}}
    specs = [ToolSpec("a", "A.", simple), ToolSpec("b.c", "B.", wide), ToolSpec("d", "D.", titled), ToolSpec("e")]

    plain, told, with_titles, empty = tool_infos(specs, ToolNames(specs))

    assert plain.description == "A."
    assert plain.parameters.properties["n"].minimum == 1
    assert told.name == "b_c"
    assert json.loads(told.description.partition("input: ")[2]) == wide
    assert with_titles.description == "D."
    assert list(with_titles.parameters.properties) == ["title"]
    assert empty.parameters.model_dump(exclude_none=True)["properties"] == {}
