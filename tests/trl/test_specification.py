"""TRL's trainer on a server in another language, written from the specification alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ors_gym_trl import ORSRollouts
from tests.support.node_server import node_server
from tests.support.trl_runs import make_trainer, one_thread

__all__ = ["one_thread"]


@pytest.mark.parametrize("form", ["minimal", "whole"])
def test_a_trainer_plays_the_tasks_of_a_server_that_knows_only_the_specification(form: str, tmp_path: Path):
    batches = []
    with node_server(form) as server:
        with ORSRollouts(server.url, env_name="counting") as rollouts:
            rollouts.listeners.append(batches.append)
            trainer = make_trainer(rollouts, tmp_path)
            trainer.train()
        assert server.left == 0
        assert server.opened >= 8
    assert not any(member.failed for batch in batches for group in batch.groups for member in group.members)
