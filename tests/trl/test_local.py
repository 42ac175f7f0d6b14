"""A transformers model in this process as a policy, from Python and from the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ors_gym import RolloutLimits, ToolCall
from ors_gym.cli.main import main
from ors_gym.evaluation import Evaluation, evaluate
from ors_gym.reporting.records import read_records
from ors_gym_trl.local import LocalPolicy
from tests.support.tiny import make_model, make_tokenizer
from tests.support.trl_runs import one_thread, server
from tests.support.trl_says import Says

__all__ = ["one_thread", "server"]  # fixtures

LOOK_AND_PRESS = Says(ToolCall("look"), ToolCall("press", {"color": "red"}))


@pytest.fixture(scope="module")
def model():
    tokenizer = make_tokenizer()
    return make_model(tokenizer, seed=0), tokenizer


def run(server, policy: LocalPolicy, **options) -> Evaluation:
    async def play() -> Evaluation:
        async with policy:
            options.setdefault("limits", RolloutLimits(max_turns=2))
            return await evaluate(server.url, {"tiny": policy}, env_name="buttons", split="test", **options)

    return asyncio.run(play())


def test_a_loaded_model_plays_and_the_same_seed_says_the_same(model, server, tmp_path: Path):
    said = []
    for number in range(2):
        out = tmp_path / f"{number}.jsonl"
        limits = RolloutLimits(max_turns=2, max_concurrent_sessions=8 - 5 * number)
        evaluation = run(
            server,
            LocalPolicy(*model, parser=LOOK_AND_PRESS, max_turn_tokens=48, temperature=0.8),
            limits=limits,
            limit=12,
            seed=3,
            out=out,
        )
        records = sorted(read_records(out), key=lambda record: record.trajectory.task.index)
        said.append([[each.reply.num_tokens for each in record.trajectory.exchanges] for record in records])
    assert 0.0 < evaluation.results[0].success.value < 1.0
    assert evaluation.results[0].usage["total_output_tokens"] == sum(sum(turns) for turns in said[1])
    # Whatever else was waiting for the model: eight sessions at once, or three.
    assert said[0] == said[1]


def test_a_fault_of_the_model_ends_the_run_with_its_own_words(model, server, monkeypatch: pytest.MonkeyPatch):
    policy = LocalPolicy(*model, parser=LOOK_AND_PRESS, max_turn_tokens=8)

    def fault(*positional, **named):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model[0], "generate", fault)

    with pytest.raises(RuntimeError, match="out of memory"):
        run(server, policy, limit=4)


def test_wrong_settings_are_said_before_anything_is_played(model):
    with pytest.raises(ValueError, match="unknown settings heat"):
        LocalPolicy(*model, heat=0.5)
    with pytest.raises(ValueError, match="its tokenizer or processor"):
        LocalPolicy(model[0])


def test_the_command_line_takes_a_folder(
    model, server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "model"
    model[0].save_pretrained(folder)
    model[1].save_pretrained(folder)
    command = ["eval", server.url, "--env", "buttons", "--split", "test", "--limit", "6", "--json"]
    sampling = ["--sampling", "max_tokens=16", "--sampling", "temperature=0"]

    status = main([*command, "--model", f"local:{folder}", *sampling, "--out", str(tmp_path / "run")])

    summary = json.loads(capsys.readouterr().out)
    assert status == 0
    assert summary["models"][0]["counts"]["episodes"] == 6
    assert summary["models"][0]["usage"]["mean_output_tokens"] > 0
    assert summary["models"][0]["about"]["sampling"] == ["max_tokens=16", "temperature=0"]
    assert main([*command, "--model", f"local:{tmp_path}/nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
