"""What belongs to a training ends with it, and the same seed gives the same training."""

from __future__ import annotations

import ast
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from transformers import TrainerCallback

import ors_gym_trl
from ors_gym.reporting import read_trajectories
from ors_gym.reporting.page import RunRecord
from ors_gym.reporting.records import read_records
from ors_gym_trl import ORSRollouts, ReportCallback, RolloutBatch, TrajectoryCallback
from tests.support.ors_servers import RunningServer
from tests.support.trl_runs import make_rollouts, make_trainer, one_thread, server, weights

__all__ = ["make_rollouts", "one_thread", "server"]  # fixtures

FOLDER = Path(ors_gym_trl.__file__).parent


def test_callbacks_hear_the_batches_of_their_own_training_only(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()
    report = ReportCallback(rollouts, None, RunRecord(title="one"))
    first = TrajectoryCallback(rollouts, tmp_path / "a.jsonl", run={"name": "one"})
    second = TrajectoryCallback(rollouts, tmp_path / "b.jsonl", run={"name": "two"})

    make_trainer(rollouts, tmp_path, callbacks=[first, report], max_steps=1).train()
    make_trainer(rollouts, tmp_path, callbacks=[second], max_steps=2).train()

    assert rollouts.listeners == []
    assert {record.run["name"] for record in read_records(tmp_path / "a.jsonl")} == {"one"}
    assert len(list(read_trajectories(tmp_path / "a.jsonl"))) == 8
    assert len(list(read_trajectories(tmp_path / "b.jsonl"))) == 16
    assert [step.step for step in report.record.steps] == [1]


class Interrupts(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


def test_a_callback_of_an_interrupted_training_does_not_hear_the_next(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()
    callback = TrajectoryCallback(rollouts, tmp_path / "a.jsonl")
    with pytest.raises(KeyboardInterrupt):
        make_trainer(rollouts, tmp_path, callbacks=[callback, Interrupts()]).train()

    make_trainer(rollouts, tmp_path, max_steps=1).train()

    assert len(list(read_trajectories(tmp_path / "a.jsonl"))) == 8


def portals() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ors-gym portal"]


def test_forgotten_rollouts_end_their_threads_and_warn(server: RunningServer):
    def forget() -> None:
        rollouts = [ORSRollouts(server.url, env_name="buttons", max_tasks=2) for _ in range(4)]
        assert all(one.train_dataset.num_rows == 2 for one in rollouts)
        assert len(portals()) == len(before) + 4
        del rollouts
        gc.collect()

    gc.collect()
    before = portals()
    with pytest.warns(ResourceWarning, match=r"unclosed <ORSRollouts of buttons>") as warned:
        forget()
    assert len(warned) == 4
    for thread in threading.enumerate():
        if thread.name == "ors-gym closing":
            thread.join(10)
    assert portals() == before


def test_rollouts_that_were_used_travel_to_another_process_as_a_copy_that_opens_its_own_clients(server: RunningServer):
    with ORSRollouts(server.url, env_name="buttons", max_tasks=2, max_failed_batches=7) as rollouts:
        used = rollouts.train_dataset
        with cloudpickle.loads(cloudpickle.dumps(rollouts)) as copy:
            assert copy._max_failed_batches == 7
            assert copy.train_dataset.to_list() == used.to_list()
            assert copy.portal is not rollouts.portal


def test_rollouts_that_did_nothing_have_nothing_to_close():
    before = portals()
    ORSRollouts("http://127.0.0.1:1", env_name="buttons")
    assert portals() == before


def brevity(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [-float(len(ids)) for ids in completion_ids]


def trained(make_rollouts: Callable, tmp_path: Path, **settings: Any) -> tuple[torch.Tensor, list[list[str]]]:
    """The weights at the end, and what was said in each batch."""
    rollouts = make_rollouts()
    said: list[list[str]] = []

    def listen(batch: RolloutBatch) -> None:
        said.append([str([message.text for message in one.completion]) for one in batch.trajectories])

    rollouts.listeners.append(listen)
    defaults = {"max_steps": 3, "seed": 7, "reward_funcs": [*rollouts.reward_funcs, brevity]}
    trainer = make_trainer(rollouts, tmp_path, **(defaults | settings))
    trainer.train()
    return weights(trainer), said


def test_the_same_seed_trains_the_same_weights_and_another_does_not(make_rollouts: Callable, tmp_path: Path):
    first, said = trained(make_rollouts, tmp_path)
    second, said_again = trained(make_rollouts, tmp_path)
    other, said_otherwise = trained(make_rollouts, tmp_path, seed=8)

    assert said == said_again
    assert torch.equal(first, second)
    assert said != said_otherwise
    assert not torch.equal(first, other)
    assert len({text for batch in said for text in batch}) > 8


@pytest.mark.parametrize(
    "settings", [{"top_k": 5, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "temperature": 0.7}]
)
def test_the_same_seed_trains_the_same_weights_with_a_shaped_distribution(
    make_rollouts: Callable, tmp_path: Path, settings: dict[str, Any]
):
    assert torch.equal(
        trained(make_rollouts, tmp_path, max_steps=2, **settings)[0],
        trained(make_rollouts, tmp_path, max_steps=2, **settings)[0],
    )


def test_two_files_know_the_names_of_trl():
    for path in FOLDER.rglob("*.py"):
        if path.name in ("compat.py", "hooks.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in modules if name.split(".")[0] == "trl"], path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "trainer", f"{path}: trainer.{node.attr}"
