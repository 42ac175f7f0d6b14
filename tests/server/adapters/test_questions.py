"""Data sets of questions and verifiers as environments."""

from __future__ import annotations

import pytest

from ors_gym import EpisodeRunner, ORSClient, ScriptedPolicy, ToolCall
from ors_gym.rollouts.tasks import load_tasks
from ors_gym_server import create_app
from ors_gym_server.adapters.questions import from_questions
from tests.support.ors_servers import serve_app


class Sums:
    """A procedural data set in the form of reasoning-gym's."""

    def __init__(self, seed, size):
        self.seed, self.size = seed, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index >= self.size:
            raise IndexError
        return {"question": f"What is {self.seed} + {index}?", "answer": str(self.seed + index), "metadata": {}}

    def score_answer(self, answer, entry):
        return 1.0 if answer == entry["answer"] else 0.01


def test_a_question_is_answered_by_a_call_or_a_message_and_scored_once(run):
    train = Sums(10, 5)
    made = from_questions(
        "sums", {"train": train, "test": Sums(20, 2)}, score=train.score_answer, instructions="A number."
    )

    async def conversation(url):
        async with ORSClient(url) as client:
            tasks = await load_tasks(client, "sums", "train")
            async with client.session("sums", split="test", index=1) as session:
                (asked,) = await session.get_prompt()
            episodes = []
            for actions in ([ToolCall("answer", {"answer": "12"})], ["12"], ["13"]):
                episodes.append(await EpisodeRunner(client, ScriptedPolicy(actions)).run_episode(tasks[2]))
            return len(tasks), asked.text, episodes

    with serve_app(create_app([made])) as running:
        count, asked, episodes = run(conversation(running.url))
    assert (count, asked) == (5, "A number.\n\nWhat is 20 + 1?")
    assert [episode.terminated for episode in episodes] == [True] * 3
    assert [[step.output.reward for step in episode.transitions] for episode in episodes] == [[1.0], [1.0], [0.01]]


def test_a_verifier_may_take_its_arguments_in_order_and_the_question_be_written():
    rows = [{"problem": "2 + 2", "solution": "4"}]
    made = from_questions(
        "maths",
        {"test": rows},
        score=lambda text, row: text.strip() == row["solution"],
        question=lambda row: f"Solve {row['problem']}.",
    )
    episode = made(made.get_task("test", 0))
    episode.setup()
    assert episode.get_prompt() == "Solve 2 + 2."
    assert "4" not in str(episode.task_spec).replace("test-0", "")
    assert made.score(" 4 ", rows[0]) is True


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="entries have no 'question'; they have problem"):
        from_questions("maths", {"test": [{"problem": "2 + 2"}]}, score=lambda answer, entry: 1.0)
    with pytest.raises(ValueError, match="the split 'test' has no questions"):
        from_questions("maths", {"test": []}, score=lambda answer, entry: 1.0)
