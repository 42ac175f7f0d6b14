"""What waiting for fewer than all episodes does to the batches of a real GRPOTrainer.

    python benchmarks/carrying.py [--batches 40] [--groups 4]

The tiny model decides after each turn whether to go on (some words of its vocabulary mean that it stops), and the
chance of the only reward, at the end, grows with the length. The time of a turn is another one in each episode, with a
heavy tail. Groups of 8, on a server in its own process. The rules:

- all: the batch waits for every episode.
- left out: an episode ends at a deadline and does not count (``max_episode_seconds``, ``unrewarded_return=None``).
- truncated: an episode ends at a deadline, and is worth 0 (``max_episode_seconds``).
- carried over: ``carried_groups``, a half and the whole of a batch's groups.

The deadline is what lets three quarters of the episodes end, times 1.5. Printed for a policy that stays as it is, after
the first batches: the gradient for going on beside that of "all", the mean return as logged, the mean turns, the
seconds of a batch, the staleness. Staleness as such changes nothing here, as the weights stay.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from statistics import fmean, quantiles, stdev
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "integrations"), str(ROOT / "examples")]

from servers import running_server  # noqa: E402

from ors_gym import Reply, RolloutLimits, TextBlock, ToolCall, ToolOutput  # noqa: E402
from ors_gym.dialects import Dialect, Reading  # noqa: E402
from ors_gym.trajectory import Trajectory  # noqa: E402
from ors_gym_server import Environment, tool  # noqa: E402

SIZE, MAX_TURNS = 8, 32
PACE_SECONDS, PACE_SIGMA = 0.1, 1.0
WARM_UP = 5
"""Batches that are not counted: at first only fast groups are complete."""
STOPS = frozenset({"ok", "wrong", "error", "first"})
"""Words of the model that mean the end."""
HARD_LIMIT = RolloutLimits(max_turns=MAX_TURNS + 1, max_concurrent_sessions=1024)


class Walk(Environment):
    """Go on, or stop: the chance of a reward grows with the turns."""

    def __init__(self, task_spec: Any, secrets: Any = None) -> None:
        super().__init__(task_spec, secrets)
        self.turns = 0
        self.pace = PACE_SECONDS * random.lognormvariate(0, PACE_SIGMA)

    @classmethod
    def list_splits(cls) -> Sequence[str]:
        """One split."""
        return ["train"]

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[dict[str, Any]]:
        """All alike."""
        return [{"id": index} for index in range(64)]

    def get_prompt(self) -> str:
        """The same for every task."""
        return "find the button ."

    @tool
    async def go(self) -> ToolOutput:
        """Go on."""
        return await self._turn(MAX_TURNS)

    @tool
    async def stop(self) -> ToolOutput:
        """Stop."""
        return await self._turn(self.turns)

    async def _turn(self, last: int) -> ToolOutput:
        self.turns += 1
        await asyncio.sleep(self.pace)
        ends = self.turns >= last
        reward = float(random.random() < 1 - exp(-self.turns / 8)) if ends else None
        return ToolOutput(blocks=[TextBlock("ok .")], reward=reward, finished=ends)


class Decides(Dialect):
    """Reads in any word whether to stop."""

    name = "decides"
    form = "words"

    def parse(self, text: str, **known: Any) -> Reply:
        """One call."""
        return Reply(text, (ToolCall("stop" if text.strip() in STOPS else "go"),))

    def read(self, reading: Reading, thinking_open: bool) -> None:
        """Not used."""
        raise NotImplementedError


@dataclass
class Run:
    """What a rule trained on."""

    groups: list[list[tuple[Trajectory, float | None]]]
    seconds: list[float]
    staleness: list[int]

    @property
    def episodes(self) -> list[tuple[Trajectory, float | None]]:
        """All members."""
        return [each for group in self.groups for each in group]

    @property
    def mean_return(self) -> float:
        """As logged: of the episodes that count."""
        return fmean(value for _, value in self.episodes if value is not None)

    @property
    def mean_turns(self) -> float:
        """Likewise."""
        return fmean(member.num_turns for member, value in self.episodes if value is not None)

    def gradients(self, chance_of_stopping: float) -> list[float]:
        """Of each group, for going on: advantage times score, as the loss has it."""
        each: list[float] = []
        for group in self.groups:
            counted = [(member, value) for member, value in group if value is not None]
            values = [value for _, value in counted]
            spread = stdev(values) if len(values) > 1 else 0.0
            mean = fmean(values) if values else 0.0
            score = [member.num_turns * chance_of_stopping - stops(member) for member, _ in counted]
            products = [(value - mean) / (spread + 1e-4) * s for value, s in zip(values, score, strict=True)]
            each.append(fmean(products) if spread else 0.0)
        return each


def stops(member: Trajectory) -> int:
    """Whether the model decided to stop."""
    return int(any(step.action.name == "stop" for step in member.transitions))


def play(url: str, batches: int, groups: int, **options: Any) -> Run:
    """Play batches with the same weights."""
    from tiny_model import make_model, make_tokenizer
    from trl import GRPOConfig, GRPOTrainer

    from ors_gym_trl import ORSRollouts, RolloutBatch

    run = Run([], [], [])
    tokenizer = make_tokenizer()
    options = {"limits": HARD_LIMIT} | options
    with (
        ORSRollouts(url, env_name="walk", parser=Decides(), max_turn_tokens=1, **options) as rollouts,
        tempfile.TemporaryDirectory() as folder,
    ):

        def hear(batch: RolloutBatch) -> None:
            count = iter(batch.returns)
            run.groups += [[(member, next(count)) for member in group.members] for group in batch.groups]
            run.seconds.append(batch.seconds)
            run.staleness += batch.staleness

        rollouts.listeners.append(hear)
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=SIZE * groups,
            num_generations=SIZE,
            max_completion_length=480,
            max_steps=batches,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = GRPOTrainer(
            model=make_model(tokenizer, seed=0),
            processing_class=tokenizer,
            args=config,
            train_dataset=rollouts.train_dataset,
            rollout_func=rollouts.rollout_func,
            reward_funcs=rollouts.reward_funcs,
        )
        trainer.generation_config.eos_token_id = list(range(len(tokenizer)))
        rows = itertools.cycle(rollouts.train_dataset["prompt"])
        for number in range(batches):
            trainer.state.global_step = number  # which the seeds of the turns come from
            prompts = [prompt for prompt in itertools.islice(rows, groups) for _ in range(SIZE)]
            rollouts.rollout_func(prompts, trainer)
    return run


def main() -> None:
    """Print the table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=40, help="of each rule (default: %(default)s)")
    parser.add_argument("--groups", type=int, default=4, help="in a batch (default: %(default)s)")
    arguments = parser.parse_args()
    batches, groups = arguments.batches, arguments.groups
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with running_server("carrying.py", "--serve") as url:
        everything = counted(play(url, batches, groups), groups)
        chance = sum(stops(member) for member, _ in everything.episodes)
        chance /= sum(member.num_turns for member, _ in everything.episodes)
        deadline = 1.5 * quantiles([member.seconds for member, _ in everything.episodes], n=4)[2]
        limits = RolloutLimits(HARD_LIMIT.max_turns, deadline, HARD_LIMIT.max_concurrent_sessions)
        rules: dict[str, dict[str, Any]] = {
            "all": {},
            "left out": {"limits": limits, "unrewarded_return": None},
            "truncated": {"limits": limits},
            f"carried over, {groups // 2}": {"carried_groups": groups // 2},
            f"carried over, {groups}": {"carried_groups": groups},
        }
        print(f"deadline {deadline:.2f} s, chance of stopping {chance:.3f}\n")
        print("| rule | gradient | logged return | turns | seconds of a batch | staleness, largest |")
        print("|---|---|---|---|---|---|", flush=True)
        reference = fmean(everything.gradients(chance))
        for name, options in rules.items():
            run = counted(play(url, batches, groups, **options), groups) if options else everything
            each = run.gradients(chance)
            error = stdev(each) / len(each) ** 0.5
            stale = f"{fmean(run.staleness):.2f}, {max(run.staleness)}" if run.staleness else "0"
            print(
                f"| {name} | {fmean(each) / reference:.0%} ± {error / reference:.0%} | {run.mean_return:.3f} "
                f"| {run.mean_turns:.1f} | {fmean(run.seconds):.2f} | {stale} |",
                flush=True,
            )


def counted(run: Run, groups: int) -> Run:
    """A run without its first batches."""
    return Run(run.groups[WARM_UP * groups :], run.seconds[WARM_UP:], run.staleness[WARM_UP * groups :])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        from ors_gym_server import serve

        serve([Walk], port=int(sys.argv[2]))
    else:
        main()
