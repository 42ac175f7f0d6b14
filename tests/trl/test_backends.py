"""Every way in which a trainer's configuration lets a model sample: exact tokens, no barrier, no common calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from ors_gym import RolloutLimits, StopReason, ToolCall
from ors_gym_trl import RolloutBatch, SamplingError, SamplingMismatchError, compat
from ors_gym_trl.sampling.backends import make_sampler
from ors_gym_trl.sampling.in_process import ContinuousSampler, PaddedSampler
from ors_gym_trl.sampling.vllm import ColocatedSampler, ServerSampler
from tests.support.ors_servers import free_port, serve_app
from tests.support.tiny import make_model
from tests.support.tiny_vllm import CompletionsServer, colocated_generation, in_server_mode
from tests.support.trl_runs import make_rollouts, make_trainer, one_thread, prompts_of, server, token_sum, weights
from tests.support.trl_says import Says

__all__ = ["make_rollouts", "one_thread", "server"]  # fixtures


@pytest.fixture
def completions() -> Iterator[CompletionsServer]:
    with_model = CompletionsServer()
    with serve_app(with_model.app) as running:
        with_model.url = running.url
        yield with_model


@pytest.fixture
def trainer_with(
    tmp_path: Path, completions: CompletionsServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., GRPOTrainer]:
    """A trainer whose turns are sampled by the named back-end."""

    def make(backend: str, rollouts: Any, **settings: Any) -> GRPOTrainer:
        trainer = make_trainer(
            rollouts, tmp_path, use_transformers_continuous_batching=backend == "continuous", **settings
        )
        if backend == "server":
            completions.model = trainer.model
            in_server_mode(trainer, completions.url)
        elif backend == "colocate":
            colocated_generation(trainer, monkeypatch)
        return trainer

    return make


def shake(model: Any) -> None:
    """Give the model other weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


BACKENDS = {
    "padded": PaddedSampler,
    "continuous": ContinuousSampler,
    "server": ServerSampler,
    "colocate": ColocatedSampler,
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_log_probabilities_of_what_was_sampled_are_the_trainers(
    make_rollouts: Callable, trainer_with: Callable, backend: str
):
    rollouts = make_rollouts()
    trainer = trainer_with(backend, rollouts)
    assert type(make_sampler(trainer)) is BACKENDS[backend]

    rows = rollouts.rollout_func(prompts_of(rollouts, [0] * 4 + [1] * 4), trainer)

    assert trainer.model.training, "the model was left in eval mode: the trainer would log training as evaluation"
    for prompt, completion, logprobs, mask in zip(
        rows["prompt_ids"], rows["completion_ids"], rows["logprobs"], rows["env_mask"], strict=True
    ):
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            again, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, torch.ones_like(ids), len(completion)
            )
        sampled = torch.tensor(mask).bool()
        assert (again[0] - torch.tensor(logprobs))[sampled].abs().max() < 1e-4


@pytest.mark.parametrize("backend", ["continuous", "server", "colocate"])
def test_a_trainer_trains_with_any_sampler(make_rollouts: Callable, trainer_with: Callable, backend: str):
    rollouts = make_rollouts()
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    trainer = trainer_with(backend, rollouts, reward_funcs=[*rollouts.reward_funcs, token_sum])
    before = weights(trainer)

    trainer.train()

    assert not torch.equal(before, weights(trainer))
    assert len(batches) == 2
    assert all(0 < batch.sampling_seconds <= batch.seconds for batch in batches)
    logs = next(entry for entry in trainer.state.log_history if "reward" in entry)
    if trainer.use_vllm:
        assert logs["sampling/sampling_logp_difference/max"] < 1e-4


def test_each_turn_is_its_own_request_and_none_waits_for_others(
    make_rollouts: Callable, trainer_with: Callable, completions: CompletionsServer
):
    rollouts = make_rollouts()
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    trainer = trainer_with("server", rollouts)

    rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)

    assert len(completions.requests) == sum(trajectory.num_turns for trajectory in batches[0].trajectories)
    assert completions.most_under_way > 1
    assert {request["n"] for request in completions.requests} == {1}
    assert {request["model"] for request in completions.requests} == {"tiny"}
    assert all(isinstance(token, int) for request in completions.requests for token in request["prompt"])
    assert len({request["seed"] for request in completions.requests}) == len(completions.requests)


def test_a_server_that_writes_tokens_in_the_openai_way_is_as_good(
    make_rollouts: Callable, trainer_with: Callable, completions: CompletionsServer
):
    completions.answers = "tokens"
    rollouts = make_rollouts()
    trainer = trainer_with("server", rollouts)

    assert all(rollouts.rollout_func(prompts_of(rollouts, [0] * 4), trainer)["completion_ids"])


def test_a_server_that_returns_text_alone_is_refused(
    make_rollouts: Callable, trainer_with: Callable, completions: CompletionsServer
):
    completions.answers = "text"
    rollouts = make_rollouts()

    with pytest.raises(SamplingError, match="return_token_ids"):
        rollouts.rollout_func(prompts_of(rollouts, [0] * 4), trainer_with("server", rollouts))


def test_a_request_to_a_busy_server_is_retried(
    make_rollouts: Callable, trainer_with: Callable, completions: CompletionsServer
):
    completions.refusals = [503, 429]
    rollouts = make_rollouts()

    rows = rollouts.rollout_func(prompts_of(rollouts, [0] * 4), trainer_with("server", rollouts))

    assert all(rows["completion_ids"])
    assert not completions.refusals


def test_an_episode_that_fills_the_servers_context_is_cut_off_and_the_run_continues(
    make_rollouts: Callable, trainer_with: Callable, completions: CompletionsServer
):
    completions.max_model_len = 44
    rollouts = make_rollouts(limits=RolloutLimits(max_turns=20), max_turn_tokens=64)
    trainer = trainer_with("server", rollouts)

    rows = rollouts.rollout_func(prompts_of(rollouts, [0] * 16), trainer)

    lengths = [len(p + c) for p, c in zip(rows["prompt_ids"], rows["completion_ids"], strict=True)]
    assert max(lengths) == 44
    assert StopReason.MAX_TOKENS in {member.stop_reason for member in rows["ors_trajectory"]}


@pytest.mark.parametrize(("fault", "words"), [({"refusals": [400] * 4}, "answered 400"), ({"cut": True}, "broke")])
def test_a_turn_that_may_have_been_sampled_is_not_sampled_again(
    make_rollouts: Callable, trainer_with: Callable, completions: CompletionsServer, fault: dict, words: str
):
    vars(completions).update(fault)
    rollouts = make_rollouts()

    with pytest.raises(SamplingError, match=words):
        rollouts.rollout_func(prompts_of(rollouts, [0] * 4), trainer_with("server", rollouts))

    assert len(completions.requests) <= 4


def test_an_unreachable_server_ends_the_run_with_the_reason(make_rollouts: Callable, trainer_with: Callable):
    rollouts = make_rollouts()
    trainer = trainer_with("server", rollouts, vllm_server_timeout=0.2)
    trainer.args.vllm_server_base_url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(SamplingError, match="cannot be reached"):
        rollouts.rollout_func(prompts_of(rollouts, [0] * 4), trainer)


def test_a_server_of_other_weights_stops_the_run(
    make_rollouts: Callable, trainer_with: Callable, completions: CompletionsServer
):
    rollouts = make_rollouts()
    trainer = trainer_with("server", rollouts)
    completions.model = make_model(trainer.processing_class, seed=1)
    shake(completions.model)

    with pytest.raises(SamplingMismatchError, match="never reached the vLLM server"):
        rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)


@pytest.mark.parametrize("settings", [{"top_p": 0.5}, {"top_p": 0.8, "temperature": 0.7}])
def test_a_shaped_distribution_is_compared_with_itself(
    make_rollouts: Callable, trainer_with: Callable, completions: CompletionsServer, settings: dict
):
    rollouts = make_rollouts(max_turn_tokens=32)
    trainer = trainer_with("server", rollouts, **settings)
    rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)

    completions.processed = False
    with pytest.raises(SamplingMismatchError, match="processed_logprobs"):
        make_and_play(make_rollouts, trainer)


def make_and_play(make_rollouts: Callable, trainer: GRPOTrainer) -> None:
    rollouts = make_rollouts(max_turn_tokens=32)
    rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)


@pytest.mark.parametrize("backend", ["padded", "continuous"])
@pytest.mark.parametrize(
    "settings",
    [{"repetition_penalty": 1.5}, {"top_k": 3}, {"top_p": 0.5, "min_p": 0.05, "temperature": 0.7}],
    ids=["penalty", "top_k", "top_p"],
)
def test_what_shapes_the_distribution_in_process_is_allowed_for(
    make_rollouts: Callable, trainer_with: Callable, backend: str, settings: dict
):
    make_and_play(make_rollouts, trainer_with(backend, make_rollouts(), **settings))


def test_a_server_draws_each_turn_with_a_seed_that_is_the_same_in_every_run(
    make_rollouts: Callable, trainer_with: Callable, completions: CompletionsServer
):
    trainer = trainer_with("server", make_rollouts())
    make_and_play(make_rollouts, trainer)
    first, completions.requests = completions.requests, []
    make_and_play(make_rollouts, trainer)

    def seeds(requests: list[dict]) -> list[tuple[str, int]]:
        return sorted((str(request["prompt"]), request["seed"]) for request in requests)

    assert seeds(first) == seeds(completions.requests)
    assert len({seed for _, seed in seeds(first)}) == len(first)


def test_weights_that_stop_reaching_the_server_are_noticed_later_too(
    make_rollouts: Callable, trainer_with: Callable, completions: CompletionsServer
):
    rollouts = make_rollouts()
    trainer = trainer_with("server", rollouts)
    rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)
    completions.model = make_model(trainer.processing_class, seed=0)
    shake(trainer.model)

    with pytest.raises(SamplingMismatchError):
        rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://0.0.0.0:8000"),
        ({"vllm_server_host": "node7", "vllm_server_port": 9001}, "http://node7:9001"),
        ({"vllm_server_base_url": "https://vllm.example/"}, "https://vllm.example"),
        ({"vllm_server_base_url": "http://node7:8000/v1"}, "http://node7:8000"),
    ],
)
def test_every_process_finds_the_server_from_the_arguments(
    make_rollouts: Callable, tmp_path: Path, settings: dict, url: str
):
    trainer = make_trainer(make_rollouts(), tmp_path, **settings)

    assert compat.server_url(trainer) == url


def test_a_colocated_engine_samples_what_is_waiting_and_keeps_within_each_turns_limit(
    make_rollouts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rollouts = make_rollouts(max_turn_tokens=5)
    trainer = make_trainer(rollouts, tmp_path)
    llm = colocated_generation(trainer, monkeypatch)

    rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)

    assert sum(llm.batches) >= 8
    assert max(llm.batches) > 1
    assert trainer.vllm_generation.max_completion_length == trainer.args.max_completion_length  # type: ignore[attr-defined]


def test_a_sleeping_engine_wakes_once_a_rollout_not_once_a_turn(
    make_rollouts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rollouts = make_rollouts(parser=Says(ToolCall("look")))
    trainer = make_trainer(rollouts, tmp_path)
    trainer.generation_config.eos_token_id = list(range(len(trainer.processing_class)))  # any token ends a turn
    llm = colocated_generation(trainer, monkeypatch, sleep=True)
    sleeps = llm.sleeps

    rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)

    assert len(llm.batches) > 1
    assert llm.sleeps == sleeps + 1
    assert trainer.vllm_generation.enable_sleep_mode
    assert llm.asleep == {"weights", "kv_cache"}


def test_importance_sampling_over_whole_episodes_is_warned_of(
    make_rollouts: Callable, trainer_with: Callable, caplog: pytest.LogCaptureFixture
):
    rollouts = make_rollouts()
    rollouts.rollout_func(prompts_of(rollouts, [0] * 4), trainer_with("server", rollouts))

    assert "token_truncate" in caplog.text


def test_a_colocated_engine_across_processes_is_refused(
    make_rollouts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rollouts = make_rollouts()
    trainer = make_trainer(rollouts, tmp_path, vllm_tensor_parallel_size=2)
    colocated_generation(trainer, monkeypatch)

    with pytest.raises(ValueError, match=r"lockstep.*vllm_tensor_parallel_size=1"):
        rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)
