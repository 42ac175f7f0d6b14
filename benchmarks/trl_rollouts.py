"""GRPOTrainer steps with TRL's OpenReward adapter and with ors_gym_trl: same model, tasks, server and run.

    python benchmarks/trl_rollouts.py [adapters] [samplers]

Episodes of three tool calls on the reference server, which runs in its own process. The model is the demo's tiny one,
which knows the format of calls. Three comparisons:

- a tool of 0.2 s, 32 and 64 episodes: the time of the rollout, and of the trainer outside of it;
- an instant tool;
- calls of 0.05 s in the median, some a hundred times longer (lognormal): padded ``generate`` compared with continuous
  batching, both in ors_gym_trl, with turns that sample one call each.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "examples"), str(ROOT)]
os.environ |= {"OPENREWARD_LOG_LEVEL": "CRITICAL", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}

from openreward.environments import Environment, TextBlock, ToolOutput, tool  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from servers import running_server  # noqa: E402

CALLS = 3
"""In an episode."""
LATENCIES = {"slow": lambda: 0.2, "instant": lambda: 0.0, "tail": lambda: random.lognormvariate(-3.0, 1.4)}
"""Seconds of a call, by split."""
TASKS = 64
TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"properties": {}}}},
    {"type": "function", "function": {"name": "press", "parameters": {"properties": {"color": {}}}}},
]
taught: dict[str, Any] = {}
"""The model's weights after learning the format of calls."""


class NoInput(BaseModel):
    """Nothing to say."""


class Color(BaseModel):
    """Which button to press."""

    color: str


class Buttons(Environment):
    """Three calls of any tool, which take the split's latency; pressing red is rewarded."""

    def __init__(self, task_spec: Any = {}, secrets: Any = {}) -> None:  # noqa: B006  (the SDK's signature)
        super().__init__(task_spec, secrets)
        self.calls = 0

    @classmethod
    def list_splits(cls) -> list[str]:
        """One split per latency."""
        return list(LATENCIES)

    @classmethod
    def list_tasks(cls, split: str) -> list[dict[str, Any]]:
        """Identical tasks."""
        return [{"id": f"{split}-{index}", "split": split} for index in range(TASKS)]

    def get_prompt(self) -> list[TextBlock]:
        """The same for every task."""
        return [TextBlock(text="find the button .")]

    @tool
    async def look(self, _: NoInput) -> ToolOutput:
        """Look."""
        return await self._work(0.0)

    @tool
    async def press(self, pressed: Color) -> ToolOutput:
        """Press a button."""
        return await self._work(float(pressed.color == "red"))

    async def _work(self, reward: float) -> ToolOutput:
        await asyncio.sleep(LATENCIES[self.task_spec["split"]]())
        self.calls += 1
        return ToolOutput(blocks=[TextBlock(text="ok .")], reward=reward, finished=self.calls == CALLS)


@dataclass
class Timing:
    """Seconds per step, and calls per episode."""

    rollout: float
    outside: float
    calls: float
    sampling: float = 0.0
    """The part of a rollout with sampling in progress, if known."""


def main() -> None:
    """Run the comparisons on the command line, or all."""
    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    asked = sys.argv[1:] or ["adapters", "samplers"]
    with running_server("trl_rollouts.py", "--serve") as url:
        if "adapters" in asked:
            compare_adapters(url)
        if "samplers" in asked:
            compare_samplers(url)


def compare_adapters(url: str) -> None:
    """Print the duration of steps with TRL's adapter and with ors_gym_trl."""
    print("| split | episodes | TRL rollout s | ours s | ratio | TRL outside s | ours outside s | calls TRL/ours |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for split, episodes, steps in (("slow", 32, 2), ("slow", 64, 2), ("instant", 32, 4), ("instant", 64, 4)):
        ours = with_ors_gym(url, split, episodes, steps)
        theirs = with_trl(url, split, episodes, steps)
        print(
            f"| {split} | {episodes} | {theirs.rollout:.2f} | {ours.rollout:.2f} | {theirs.rollout / ours.rollout:.1f} "
            f"| {theirs.outside:.2f} | {ours.outside:.2f} | {theirs.calls:.2f}/{ours.calls:.2f} |",
            flush=True,
        )


def compare_samplers(url: str) -> None:
    """Print the duration of padded generate and continuous batching under a heavy tail."""
    print("\n| sampled by | episodes | rollout s | of it sampling s |\n|---|---|---|---|", flush=True)
    for continuous in (False, True):
        for episodes in (32, 128):
            timing = with_ors_gym(url, "tail", episodes, 3, use_transformers_continuous_batching=continuous)
            name = "continuous batching" if continuous else "padded generate"
            print(f"| {name} | {episodes} | {timing.rollout:.2f} | {timing.sampling:.2f} |", flush=True)


def with_ors_gym(url: str, split: str, episodes: int, steps: int, **settings: Any) -> Timing:
    """Train through ors_gym_trl."""
    from ors_gym import RolloutLimits
    from ors_gym_trl import ORSRollouts, RolloutBatch

    limits = RolloutLimits(max_turns=CALLS)
    with ORSRollouts(url, env_name="buttons", split=split, max_turn_tokens=8, limits=limits) as rollouts:
        calls: list[int] = []
        sampling: list[float] = []

        def count(batch: RolloutBatch) -> None:
            sampling.append(batch.sampling_seconds)
            calls.extend(len(trajectory.transitions) for trajectory in batch.trajectories)

        rollouts.listeners.append(count)
        slots = {"rollout_func": rollouts.rollout_func, "reward_funcs": rollouts.reward_funcs}
        with trainer_of(rollouts.train_dataset, episodes, steps, slots, settings) as trainer:
            rollout, outside = timed(trainer)
        return Timing(rollout, outside, sum(calls) / len(calls), median(sampling))


def with_trl(url: str, split: str, episodes: int, steps: int) -> Timing:
    """Train through TRL's OpenReward adapter."""
    from trl.experimental.openreward import OpenRewardSpec

    os.environ |= {"OPENREWARD_API_URL": url, "OPENREWARD_SESSION_URL": url, "OPENREWARD_API_KEY": "none"}
    spec = OpenRewardSpec(url, env_name="buttons", split=split)
    slots = {"environment_factory": spec.environment_factory, "reward_funcs": spec.reward_funcs}
    settings = {"max_tool_calling_iterations": CALLS}
    with trainer_of(spec.train_dataset, episodes, steps, slots, settings) as trainer:
        rollout, outside = timed(trainer)
        calls = [entry["tools/call_frequency"] for entry in trainer.state.log_history if "reward" in entry]
        for environment in trainer.environments:  # TRL leaves them open, which would delay the next measurement
            environment._close()
        return Timing(rollout, outside, sum(calls) / len(calls))


@contextmanager
def trainer_of(dataset: Any, episodes: int, steps: int, slots: dict[str, Any], settings: dict[str, Any]) -> Any:
    """A trainer of the tiny model, with the same settings for either way to play the episodes."""
    from tiny_model import make_model, make_tokenizer, warm_up
    from trl import GRPOConfig, GRPOTrainer
    from trl.chat_template_utils import qwen3_template

    tokenizer = make_tokenizer()
    tokenizer.response_template = qwen3_template  # how TRL reads the calls that this template writes
    model = make_model(tokenizer, seed=0)
    if not taught:
        for _ in warm_up(model, tokenizer, TOOLS, seed=0):
            pass
        taught.update(copy.deepcopy(model.state_dict()))
    model.load_state_dict(taught)
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=episodes,
            num_generations=8,
            max_completion_length=96,
            max_steps=steps,
            learning_rate=1e-5,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **settings,
        )
        yield GRPOTrainer(model=model, processing_class=tokenizer, args=config, train_dataset=dataset, **slots)


def timed(trainer: Any) -> tuple[float, float]:
    """The median step's seconds in the rollout (sessions, sampling, tools) and outside of it."""
    rollouts: list[float] = []
    first: list[float] = []
    play = trainer._generate_and_score_completions

    def timed_play(inputs: Any) -> Any:
        started = time.monotonic()
        first.append(started)
        try:
            return play(inputs)
        finally:
            rollouts.append(time.monotonic() - started)

    trainer._generate_and_score_completions = timed_play
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        trainer.train()
    return median(rollouts), (time.monotonic() - first[0] - sum(rollouts)) / len(rollouts)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        import uvicorn
        from openreward.environments import Server

        uvicorn.run(Server([Buttons]).app, port=int(sys.argv[2]), log_level="critical", access_log=False)
    else:
        main()
