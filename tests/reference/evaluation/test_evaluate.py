"""Evaluations on a real server: what is played, what is counted, and what a file gives back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter as Counts
from typing import Any, ClassVar

import pytest
from openreward.environments import Environment, Split, TextBlock, ToolOutput, tool
from pydantic import BaseModel

from ors_gym import ORSClient
from ors_gym.evaluation import Budget, Rules, Verdict, compare, evaluate, prepare, score_file
from ors_gym.evaluation.replay import replay
from ors_gym.evaluation.task_plan import plan_tasks
from ors_gym.policies.policy import Reply, ScriptedPolicy, Turn
from ors_gym.reporting.records import read_records
from ors_gym.rollouts.groups import RolloutLimits
from ors_gym.types import ToolCall


class Number(BaseModel):
    number: int


class Sums(Environment):
    """Twelve sums in two subjects. ``answer`` gives 1.0 for the right number, nothing for another, and ends it."""

    tasks: ClassVar[list[dict[str, Any]]] = [
        {"id": index, "left": index, "subject": "even" if index % 2 == 0 else "odd"} for index in range(12)
    ]
    greeting: ClassVar[str] = ""
    broken: ClassVar[set[int]] = set()
    """Tasks whose tool raises."""
    broken_once: ClassVar[set[int]] = set()
    """Tasks whose tool raises the next time it is called."""

    @classmethod
    def list_splits(cls):
        return [Split(name="practice", type="train"), Split(name="exam", type="test")]

    @classmethod
    def list_tasks(cls, split):
        return cls.tasks

    def get_prompt(self):
        return [TextBlock(text=f"{self.greeting}What is {self.task_spec['left']} + 1?")]

    @tool
    def answer(self, params: Number) -> ToolOutput:
        """Answer."""
        left = self.task_spec["left"]
        if left in self.broken or left in self.broken_once:
            self.broken_once.discard(left)
            raise RuntimeError("out of order")
        right = params.number == left + 1
        return ToolOutput(blocks=[TextBlock(text=str(right))], reward=1.0 if right else None, finished=True)


class Adder:
    """Answers right below ``limit``, and wrong from there on."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.asked: Counts[str] = Counts()

    async def act(self, turn: Turn) -> Reply:
        left = turn.task.index or 0
        self.asked[str(turn.task)] += 1
        return Reply(tool_calls=(ToolCall("answer", {"number": left + 1 if left < self.limit else 0}),))


@pytest.fixture
def server(start_server):
    sums = type("Sums", (Sums,), {"broken": set(), "broken_once": set(), "tasks": list(Sums.tasks)})
    running = start_server(sums)
    running.sums = sums
    return running


def played(server, models=None, **options):
    return asyncio.run(evaluate(server.url, models or {"m": Adder(9)}, **options))


def test_the_split_of_type_test_is_played_whole_and_each_epoch_once(server, tmp_path):
    policy = Adder(9)
    evaluation = played(server, {"m": policy}, epochs=3, out=tmp_path / "run.jsonl")
    assert set(policy.asked.values()) == {3}
    assert len(policy.asked) == 12
    assert all("exam" in task for task in policy.asked)
    (result,) = evaluation.results
    assert result.counts == {
        "tasks": 12,
        "episodes": 36,
        "scored": 27,
        "unrewarded": 9,
        "failed": 0,
        "first_attempts_failed": 0,
    }
    assert result.success.value == pytest.approx(0.75)
    assert result.about["env"] == "sums"
    records = list(read_records(tmp_path / "run.jsonl"))
    assert Counts(record.note["epoch"] for record in records) == {0: 12, 1: 12, 2: 12}
    assert len({record.note["task_sha256"] for record in records}) == 12
    assert {record.note["return"] for record in records} == {0.0, 1.0}
    assert evaluation.status() == 0


def test_epochs_are_played_one_after_another_over_all_tasks(server):
    order: list[int] = []

    class Noting(Adder):
        async def act(self, turn: Turn) -> Reply:
            order.append(turn.task.index or 0)
            return await super().act(turn)

    played(server, {"m": Noting(9)}, epochs=2, limits=RolloutLimits(max_concurrent_sessions=1))
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    assert order[:12] != order[12:]


def test_a_failed_episode_is_not_zero_and_failed_first_attempts_are_counted(server, tmp_path):
    server.sums.broken = {0}
    server.sums.broken_once = {1, 2}
    evaluation = played(server, out=tmp_path / "run.jsonl", retries=1, tool_errors="fail")
    (result,) = evaluation.results
    assert (result.counts["failed"], result.counts["first_attempts_failed"]) == (1, 3)
    assert result.success.value == pytest.approx(8 / 11)
    assert result.failed_as_unsolved.value == pytest.approx(8 / 12)
    assert result.failed_as_solved is not None
    assert result.failed_as_solved.value == pytest.approx(9 / 12)
    assert evaluation.status() == 3
    assert "not comparable: 1 of 12 episodes failed" in evaluation.summary()
    superseded = [record for record in read_records(tmp_path / "run.jsonl") if record.note.get("superseded")]
    assert len(superseded) == 3, "every attempt is in the file"


def test_a_file_gives_the_same_result_as_the_run(server, tmp_path):
    server.sums.broken = {0}
    server.sums.broken_once = {1, 2}
    models = {"good": Adder(11), "bad": Adder(2)}
    evaluation = played(server, models, epochs=2, out=tmp_path / "run.jsonl", retries=1)
    again = score_file(tmp_path / "run.jsonl", evaluation.rules)
    assert [each["success_rate"] for each in again.to_json()["models"]] == [
        each["success_rate"] for each in evaluation.to_json()["models"]
    ]
    assert again.summary() == evaluation.summary()


def test_models_are_compared_by_task(server):
    evaluation = played(server, {"bad": Adder(1), "good": Adder(12)}, epochs=2)
    (comparison,) = evaluation.comparisons
    assert comparison.verdict is Verdict.BETTER
    assert (comparison.better, comparison.equal) == (11, 1)
    assert "good is better than bad" in evaluation.summary()


def test_a_run_is_compared_with_another_runs_file_and_changed_tasks_are_left_out(server, tmp_path):
    played(server, {"m": Adder(1)}, out=tmp_path / "base" / "run.jsonl")
    server.sums.tasks = [{**task, "hint": "new"} if task["id"] == 3 else task for task in server.sums.tasks]
    evaluation = played(server, {"m": Adder(12)}, base=tmp_path / "base", out=tmp_path / "new.jsonl")
    (comparison,) = evaluation.comparisons
    assert comparison.changed == ("exam[3]",)
    assert comparison.difference.tasks == 11
    assert "1 task changed since m in base" in comparison.sentence()
    assert compare(tmp_path / "base", tmp_path / "new.jsonl").comparisons[0].sentence() == comparison.sentence()


def test_a_run_continues_where_its_file_ends(server, tmp_path):
    out = tmp_path / "run.jsonl"
    stopped = played(server, {"m": Adder(9)}, epochs=2, out=out, budget=Budget(seconds=0.000001))
    assert "limit of 1e-06 seconds" in stopped.ended
    assert stopped.status() == 3
    played(server, {"m": Adder(9)}, epochs=1, out=out)
    policy = Adder(9)
    evaluation = played(server, {"m": policy}, epochs=2, out=out, resume=True)
    assert set(policy.asked.values()) == {1}
    assert evaluation.results[0].counts["episodes"] == 24
    assert evaluation.complete


def test_failed_episodes_are_played_again_on_request_and_stay_counted_as_first_attempts(server, tmp_path):
    out = tmp_path / "run.jsonl"
    server.sums.broken = {0, 4}
    played(server, out=out, retries=0)
    server.sums.broken = set()
    policy = Adder(9)
    evaluation = played(server, {"m": policy}, out=out, retries=0, resume=True, retry_failed=True)
    assert len(policy.asked) == 2
    counts = evaluation.results[0].counts
    assert (counts["episodes"], counts["failed"], counts["first_attempts_failed"]) == (12, 0, 2)
    assert score_file(out).results[0].counts == counts


def test_resuming_with_tasks_that_have_changed_is_refused(server, tmp_path):
    played(server, out=tmp_path / "run.jsonl")
    server.sums.tasks = [{**task, "left": 99} if task["id"] == 3 else task for task in server.sums.tasks]
    with pytest.raises(ValueError, match=r"tasks have changed since the file was started: exam\[3\]"):
        played(server, out=tmp_path / "run.jsonl", resume=True)


def test_resuming_with_other_limits_is_refused(server, tmp_path):
    played(server, out=tmp_path / "run.jsonl")
    with pytest.raises(ValueError, match="max_turns=32, not 8"):
        played(server, out=tmp_path / "run.jsonl", resume=True, limits=RolloutLimits(max_turns=8))


def test_a_budget_of_tokens_ends_the_run_without_a_verdict(server):
    class Wordy(Adder):
        async def act(self, turn: Turn) -> Reply:
            return Reply(tool_calls=(ToolCall("answer", {"number": 1}),), num_tokens=100)

    evaluation = played(
        server, {"m": Wordy(9)}, budget=Budget(output_tokens=300), limits=RolloutLimits(max_concurrent_sessions=1)
    )
    assert evaluation.results[0].counts["episodes"] == 3
    assert evaluation.ended == "the budget of 300 output tokens is spent"
    assert (evaluation.complete, evaluation.status()) == (False, 3)


def test_prices_give_the_cost_of_every_attempt(server, tmp_path):
    server.sums.broken_once = {4}

    class Wordy(Adder):
        async def act(self, turn: Turn) -> Reply:
            return Reply(
                tool_calls=(ToolCall("answer", {"number": 1}),),
                num_tokens=100,
                num_prompt_tokens=1000,
                num_cached_tokens=400,
                num_reasoning_tokens=60,
            )

    prices = {"m": {"input_tokens": 1.0, "cached_tokens": 0.5, "output_tokens": 2.0}}
    evaluation = played(
        server, {"m": Wordy(9)}, prices=prices, retries=1, out=tmp_path / "run.jsonl", tool_errors="fail"
    )
    usage = evaluation.results[0].usage
    assert usage["cost"] == pytest.approx(13 * (600 * 1.0 + 400 * 0.5 + 100 * 2.0) / 1e6)
    assert (usage["total_input_tokens"], usage["mean_reasoning_tokens"]) == (13_000, 60.0)
    assert score_file(tmp_path / "run.jsonl", prices=prices).results[0].usage == usage


def test_a_sample_is_drawn_by_the_seed_and_stratified_by_a_field(server):
    async def labels(**options):
        async with ORSClient(server.url) as client:
            plan = await plan_tasks(client, "sums", "exam", **options)
            return [task.identity.label for task in plan.tasks], plan

    first, _ = asyncio.run(labels(sample=4, seed=1))
    assert first == asyncio.run(labels(sample=4, seed=1))[0] != asyncio.run(labels(sample=4, seed=2))[0]
    _, plan = asyncio.run(labels(sample=4, seed=1, stratify_by="subject"))
    assert Counts(task.identity.fields["subject"] for task in plan.tasks) == {"even": 2, "odd": 2}
    assert plan.stratum_sizes == {"even": 6, "odd": 6}
    assert asyncio.run(labels(indices=[3, 1]))[0] == ["exam[1]", "exam[3]"]
    with pytest.raises(ValueError, match="there is no task 12: the split has 12"):
        asyncio.run(labels(indices=[12]))


def test_errors_are_clustered_by_a_field_of_the_task(server):
    server.sums.tasks = [{**task, "book": f"book {task['id'] // 2}"} for task in server.sums.tasks]
    evaluation = played(server, rules=Rules(cluster_by="book"))
    estimate = evaluation.results[0].success
    assert estimate.method == "clustered Wilson, clustered (CR2)"
    assert len(estimate.groups) == 6


def test_other_rules_score_a_file_without_playing(server, tmp_path):
    played(server, {"m": ScriptedPolicy([ToolCall("answer", {"number": 1})])}, out=tmp_path / "run.jsonl")
    plain = score_file(tmp_path / "run.jsonl")
    assert plain.results[0].success.value == pytest.approx(1 / 12)
    generous = score_file(tmp_path / "run.jsonl", Rules(unrewarded=1.0))
    assert generous.results[0].success.value == 1.0


def test_an_environment_that_answers_otherwise_is_found_by_replaying(server, tmp_path):
    played(server, out=tmp_path / "run.jsonl")
    episodes = [record.trajectory for record in read_records(tmp_path / "run.jsonl")]

    async def again():
        async with ORSClient(server.url) as client:
            return [each async for each in replay(client, episodes)]

    assert all(each.same for each in asyncio.run(again()))
    server.sums.greeting = "Hello. "
    assert [each.difference for each in asyncio.run(again())] == ["the prompt"] * 12


def test_a_server_without_a_split_to_test_on_asks_for_one(start_server):
    class Practice(Sums):
        @classmethod
        def list_splits(cls):
            return [Split(name="practice", type="train")]

    with pytest.raises(ValueError, match="no split of type test or validation; choose one of 'practice'"):
        played(start_server(Practice))


def test_a_policys_own_fault_ends_the_run_and_what_was_played_is_kept(server, tmp_path):
    class Faulty(Adder):
        async def act(self, turn: Turn) -> Reply:
            if turn.task.index == 7:
                raise ZeroDivisionError
            return await super().act(turn)

    async def play():
        async with ORSClient(server.url) as client:
            limits = RolloutLimits(max_concurrent_sessions=1)
            run = await prepare(client, {"m": Faulty(9)}, out=tmp_path / "run.jsonl", limits=limits)
            with pytest.raises(ZeroDivisionError):
                await run.play()
            return run

    run = asyncio.run(play())
    evaluation = run.evaluation()
    assert evaluation.ended == "interrupted"
    assert run.done == len(list(read_records(tmp_path / "run.jsonl"))) < 12
    assert json.loads(json.dumps(evaluation.to_json(), allow_nan=False))["verdict"] is False
