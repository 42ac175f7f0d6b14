"""The page of an evaluation, drawn by a browser from a real run."""

from __future__ import annotations

import asyncio
import html
import json
import re

import pytest
from openreward.environments import Split, TextBlock

from ors_gym.evaluation import evaluate
from ors_gym.evaluation.page import EvaluationPageLimits, write_evaluation_page
from ors_gym.policies.policy import ScriptedPolicy
from ors_gym.types import ToolCall
from tests.support.browser import needs_browser, rendered
from tests.support.environments import Counter

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


class Exam(Counter):
    @classmethod
    def list_splits(cls):
        return [Split(name="exam", type="test")]

    @classmethod
    def list_tasks(cls, split):
        return [{"id": f"{split}-{target}", "target": target} for target in range(1, 13)]

    def get_prompt(self):
        return [TextBlock(text=f"Count to {self.target}. {HOSTILE}")]


@pytest.fixture
def evaluation(start_server, tmp_path):
    by = {name: ScriptedPolicy([ToolCall("add", {"amount": step})] * 20) for name, step in [("one", 1), ("two", 2)]}
    return asyncio.run(evaluate(start_server(Exam).url, by, epochs=2, out=tmp_path / "run.jsonl"))


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.partition('<script type="text/plain"')[0])))


@needs_browser
def test_estimates_comparisons_and_the_first_episode_are_drawn(evaluation, tmp_path):
    page, complaints = rendered(write_evaluation_page(tmp_path / "page.html", evaluation), tmp_path)
    assert complaints == []
    text = text_of(page)
    for expected in (
        "one, two on counter:exam".replace("counter", "exam"),
        "one solves 100 % of tasks like these",
        "two is worse than one: -50.0 points",
        "worse on 6 tasks",
        "12 tasks, a square for each episode",
        "one, epoch 1",
        "Count to 1.",
        "reward 1.00",
    ):
        assert expected in text, expected
    assert "<title>owned" not in page
    assert "<img" not in page.partition('<script type="text/plain"')[0]


@needs_browser
def test_tasks_are_filtered_and_episodes_read_with_the_keyboard_alone(evaluation, tmp_path):
    page = write_evaluation_page(tmp_path / "page.html", evaluation)
    keys = """
        const $ = selector => document.querySelector(selector), seen = [];
        const pause = () => new Promise(done => setTimeout(done, 60));
        const look = async () => { await pause(); seen.push(($(".episode h3") ?? $(".episode")).textContent); };
        const key = async name => {
          $("[role=grid]").dispatchEvent(new KeyboardEvent("keydown", { key: name, cancelable: true }));
          await look();
        };
        const set = async (label, value) => {
          const node = $(`[aria-label="${label}"]`);
          node.value = value;
          node.dispatchEvent(new Event("input"));
          await look();
        };
        const rows = () => seen.push(document.querySelectorAll(".matrix .row").length);
        await look();
        for (const name of ["ArrowRight", "ArrowRight", "ArrowDown", "End"]) await key(name);
        $("[data-side=worse]").click(); await look(); rows();
        seen.push([...document.querySelectorAll(".episode h3")].map(title => title.textContent.split(" · ")[0]));
        await set("Show", "none"); rows();
        await set("Show", ""); await set("Search tasks", "[11]"); rows();
        document.body.dataset.seen = JSON.stringify(seen);
    """
    text = page.read_text(encoding="utf-8").replace("Content-Security-Policy", "x")  # lets the test's own script in
    page.write_text(text.replace("</body>", f"<script>setTimeout(async () => {{ {keys} }}, 200)</script></body>"))
    drawn, complaints = rendered(page, tmp_path)
    assert complaints == []
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', drawn)[1]))
    assert seen == [
        "one, epoch 1 · exam:exam[0]",
        "one, epoch 2 · exam:exam[0]",
        "two, epoch 1 · exam:exam[0]",
        "two, epoch 1 · exam:exam[1]",
        "two, epoch 1 · exam:exam[11]",
        "two, epoch 1 · exam:exam[0]",
        6,
        ["two, epoch 1", "one, epoch 1"],
        "No task matches.",
        0,
        "one, epoch 1 · exam:exam[0]",
        "one, epoch 1 · exam:exam[11]",
        1,
    ]


@needs_browser
def test_episodes_beyond_the_pages_limit_are_said_to_be_in_the_file(evaluation, tmp_path):
    limits = EvaluationPageLimits(episode_bytes=0)
    page, complaints = rendered(write_evaluation_page(tmp_path / "page.html", evaluation, limits=limits), tmp_path)
    assert complaints == []
    assert "This page does not contain the episode" in text_of(page)
