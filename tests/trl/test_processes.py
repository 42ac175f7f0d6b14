"""Training with two real processes that talk over gloo: each plays its slice, and none waits for another's turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.ors_servers import serve, serve_app
from tests.support.paths import ROOT
from tests.support.tiny import Buttons, make_model, make_tokenizer
from tests.support.tiny_vllm import CompletionsServer


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both processes report. Importing TRL takes most of the time, so all runs share them."""
    folder = tmp_path_factory.mktemp("processes")
    completions = CompletionsServer(make_model(make_tokenizer(), seed=0))
    with serve(Buttons) as server, serve_app(completions.app) as vllm:
        command = [sys.executable, "-m", "tests.support.trl_processes", server.url, vllm.url, str(folder)]
        paths = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'integrations'}"}
        done = subprocess.run(command, env=paths, cwd=ROOT, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-4000:]
        assert not server.live_sessions
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def groups_of(ranks: list[dict[str, Any]], run: str, batch: int = 0) -> list[list[tuple[int, int]]]:
    return [[tuple(group) for group in rank[run]["groups"][batch]] for rank in ranks]


def test_each_process_plays_its_slice_and_ends_with_the_same_weights(ranks: list[dict[str, Any]]):
    first, second = groups_of(ranks, "whole groups")

    assert [size for _, size in first + second] == [4, 4, 4, 4]
    assert len({task for task, _ in first + second}) == 4
    assert ranks[0]["whole groups"]["weights"] == ranks[1]["whole groups"]["weights"]


def test_processes_whose_episodes_differ_in_length_do_not_wait_for_each_others_turns(ranks: list[dict[str, Any]]):
    for run in ("whole groups", "vllm server"):
        assert ranks[0][run]["turns"] == [8, 8]
        assert all(turns > 8 for turns in ranks[1][run]["turns"])
        assert [rank[run]["steps"] for rank in ranks] == [2, 2]


def test_a_groups_members_may_be_in_several_processes(ranks: list[dict[str, Any]]):
    first, second = groups_of(ranks, "parts of groups")

    assert first == second
    assert [size for _, size in first] == [2]


def test_a_group_that_is_needed_whole_is_played_in_one_process_and_its_rows_go_to_all(ranks: list[dict[str, Any]]):
    for batch in (0, 1):
        first, second = groups_of(ranks, "groups put together", batch)
        assert [size for _, size in first] == [4]
        assert second == []
        mine, others = (rank["groups put together"]["rows"][batch] for rank in ranks)
        played = ranks[0]["groups put together"]["played"][batch]
        assert mine + others == played
        assert len(mine) == len(others) == 2
    assert ranks[0]["groups put together"]["weights"] == ranks[1]["groups put together"]["weights"]


def test_each_process_carries_its_groups_over_whole_and_none_is_trained_on_twice(ranks: list[dict[str, Any]]):
    runs = [rank["carried over"] for rank in ranks]
    trained = [episode for run in runs for rows in run["rows"] for episode in rows]
    for batch in (0, 1, 2):
        assert [len(run["rows"][batch]) for run in runs] == [6, 6]
        assert [len(run["groups"][batch]) for run in runs] == [2, 1]
        assert [e for run in runs for e in run["rows"][batch]] == [e for run in runs for e in run["played"][batch]]
    assert len(set(trained)) == len(trained) == 3 * 12
    assert runs[0]["weights"] == runs[1]["weights"]


def test_failures_end_the_run_only_where_all_processes_agree_and_in_all_of_them(ranks: list[dict[str, Any]]):
    assert [rank["one process fails"]["steps"] for rank in ranks] == [4, 4]
    assert all("every episode of 3 batches in a row failed" in rank["all processes fail"]["refused"] for rank in ranks)


def test_accumulated_and_repeated_steps_use_each_batch_as_often_as_configured(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert rank["accumulation"]["steps"] == 4
        assert [sum(size for _, size in batch) for batch in rank["accumulation"]["groups"]] == [4, 4]


def test_the_logs_hold_the_mean_over_all_processes(ranks: list[dict[str, Any]]):
    for rank in ranks[:1]:
        turns = [sum(of["whole groups"]["turns"][step] for of in ranks) / 16 for step in (0, 1)]
        assert rank["whole groups"]["logged_turns"] == pytest.approx(turns)
