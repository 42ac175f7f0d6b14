"""What a run's page says beside its curve of rewards: further numbers, other runs, where it was made."""

from __future__ import annotations

import re

import pytest

from ors_gym.redaction import MASK
from ors_gym.reporting.page import Point, RunRecord, Sample, StepRecord, write_report
from ors_gym.reporting.provenance import command_line
from tests.support.browser import needs_browser, rendered
from tests.unit.reporting.test_report import two_turns, written


@needs_browser
def test_a_browser_draws_the_trainers_numbers_another_run_and_where_it_was_made(tmp_path):
    steps = [StepRecord(n, 2.0 * n, 8, n / 40) for n in range(1, 41)]
    other = write_report(tmp_path / "other.html", RunRecord("Another", steps=[StepRecord(7, 1.0, 8, 0.25)]))
    record = RunRecord("A run", steps=steps, beside={"last week": other}, records="all.jsonl")
    record.curves["learning rate"] = [Point(10, 1e-5), Point(20, 5e-6)]
    record.curves["evaluation: success rate"] = [Point(20, 0.5, 0.25, 0.75), Point(40, 0.75, 0.5, 0.95)]
    record.provenance = {"date": "2026-11-27 07:00 UTC", "host": "node-1", "command": "train.py --steps 40"}

    page, complaints = rendered(write_report(tmp_path / "report.html", record), tmp_path)

    assert complaints == []
    drawn = page.partition('<script type="application/json"')[0]
    text = re.sub(r"<[^>]+>", " ", drawn)
    for expected in ("last week", "Learning rate", "Evaluation: success rate", "With the 95 % interval", "node-1"):
        assert expected in text, expected
    assert '<a href="all.jsonl">' in drawn
    assert text.count("mean reward of an episode") == 1
    assert drawn.count(">step</text>") >= 3


def test_returns_of_all_episodes_are_drawn_however_few_are_kept(tmp_path):
    samples = [Sample(two_turns(), 1, episode_return=float(n % 3)) for n in range(300)] + [Sample(two_turns(), 1)]

    spread = [Sample(two_turns(), 1, episode_return=n / 100) for n in range(500)]
    few = written(tmp_path, RunRecord("run", samples=samples))
    many = written(tmp_path, RunRecord("run", samples=spread))

    assert (few["numSamples"], len(few["samples"])) == (301, 200)
    assert few["returns"] == [[0.0, 0.0, 100], [1.0, 1.0, 100], [2.0, 2.0, 100]]
    assert sum(count for _, _, count in many["returns"]) == 500
    assert len(many["returns"]) == 8


def test_another_kind_of_page_is_refused_as_a_comparison(tmp_path):
    (tmp_path / "other.html").write_text("<p>hello</p>")
    with pytest.raises(ValueError, match="not a page of ors-gym"):
        written(tmp_path, RunRecord("run", beside={"other": tmp_path / "other.html"}))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["train.py", "--api-key", "abc", "--steps", "4"], "train.py --api-key ** --steps 4"),
        (["train.py", "--hf-token=abc", "--secret", "a=b", "-v"], "train.py --hf-token=** --secret ** -v"),
        (["train.py", "--max-tokens", "512"], "train.py --max-tokens 512"),
    ],
)
def test_a_command_is_shown_without_the_values_of_secret_options(command, shown):
    assert command_line(command).replace("'", "").replace(MASK, "**") == shown
