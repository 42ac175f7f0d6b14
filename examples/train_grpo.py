r"""Train a language model with GRPO on an ORS server, and watch it learn.

Without arguments everything runs on this machine, in minutes, on a CPU: a tiny model is created, an ORS server is
started in its own process, Ray actors host the episodes, TRL's GRPOTrainer trains, and a page shows the run.

    python examples/train_grpo.py
    python examples/train_grpo.py --no-ray --seed 3

The same script trains a real model on a real server:

    python examples/train_grpo.py --model Qwen/Qwen3-0.6B --url http://localhost:8080 --env wordle \
        --max-completion-length 2048 --max-turns 8
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

# Set before importing the libraries that read them: no hub is contacted unless a model there is given.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from ors_gym import EpisodeRunner, ORSClient, RandomPolicy, RolloutLimits, run_groups, trajectory_return
from ors_gym.client import Portal
from ors_gym.reporting.page import Measurement, RunRecord, StepRecord
from ors_gym.reporting.progress import RunProgress
from ors_gym.rollouts.tasks import load_tasks
from ors_gym.types import ToolList

SOLVED = 0.95
"""The demo stops when the mean reward of its last ten batches reaches this."""

WARM_UP = """\
The tiny model was first taught how a tool call is written, on conversations drawn at random: which tool was called, \
with which color, and what it answered were independent of each other, so nothing of the task could be learned."""

TINY = {
    "steps": 480,
    "prompts_per_step": 16,
    "group_size": 8,
    "learning_rate": 1e-3,
    "max_turns": 3,
    "max_completion_length": 96,
    "baseline_episodes": 256,
}
YOURS = {
    "steps": 500,
    "prompts_per_step": 8,
    "group_size": 8,
    "learning_rate": 1e-6,
    "max_turns": 16,
    "max_completion_length": 4096,
    "baseline_episodes": 32,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser)
    parser.add_argument("--baseline-episodes", type=int, metavar="N", help="of a random policy, beforehand (256 / 32)")
    where = parser.add_argument_group("where")
    where.add_argument("--no-ray", action="store_true", help="play the episodes in this process")
    where.add_argument("--actors", type=int, default=2, help="Ray actors that play episodes (default: %(default)s)")
    where.add_argument("--ray-address", help="an existing Ray cluster; by default Ray is started")
    where.add_argument("--trajectories", action="store_true", help="write every episode to trajectories.jsonl")
    where.add_argument("--beside", metavar="PAGE", action="append", default=[], help="draw another run's rewards too")
    where.add_argument("--output", type=Path, default=Path("runs/demo"), help="a folder (default: %(default)s)")
    return with_defaults(parser.parse_args())


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options shared by runs on one machine and on a cluster."""
    what = parser.add_argument_group("model and environment")
    what.add_argument("--model", help="a hub name or a path; by default a tiny model is created")
    what.add_argument("--url", help="an ORS server; by default one is started (examples/buttons.py)")
    what.add_argument("--env", help="the environment's name; by default the server's first")
    what.add_argument("--split", default="train", help="the tasks to train on (default: %(default)s)")
    how = parser.add_argument_group("how", "Defaults: for the tiny model / for --model.")
    how.add_argument("--steps", type=int, help="maximum updates (480 / 500)")
    how.add_argument("--prompts-per-step", type=int, metavar="N", help="tasks in a batch (16 / 8)")
    how.add_argument("--group-size", type=int, metavar="G", help="episodes of each task (8 / 8)")
    how.add_argument("--learning-rate", type=float, metavar="LR", help="(1e-3 / 1e-6)")
    how.add_argument("--max-turns", type=int, metavar="N", help="maximum turns of an episode (3 / 16)")
    how.add_argument("--max-completion-length", type=int, metavar="N", help="maximum tokens of an episode (96 / 4096)")
    how.add_argument("--parser", default="auto", help="dialect of the model's tool calls (default: %(default)s)")
    how.add_argument("--vllm-server", metavar="URL", help="sample from this vLLM server, not in this process")
    how.add_argument("--seed", type=int, default=0)


def with_defaults(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the defaults for the tiny model or for ``--model``."""
    for name, value in (TINY if arguments.model is None else YOURS).items():
        if getattr(arguments, name, None) is None:
            setattr(arguments, name, value)
    return arguments


@contextlib.contextmanager
def local_server() -> Iterator[str]:
    """Serve examples/buttons.py in its own process; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("buttons.py")), "--port", str(port), "--exit-with-parent"]
    # In its own group: Ctrl-C must not stop it before the episodes have closed their sessions.
    server = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the local ORS server did not start; try: " + " ".join(command[:-1]))
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


async def measure_random_policy(url: str, env_name: str, arguments: argparse.Namespace) -> Measurement:
    """The mean reward of episodes with random tools and inputs."""
    async with ORSClient(url) as client:
        tasks = await load_tasks(client, env_name, arguments.split, limit=arguments.baseline_episodes)
        limits = RolloutLimits(max_turns=arguments.max_turns)
        runner = EpisodeRunner(client, RandomPolicy(arguments.seed), limits=limits)
        returns = [
            trajectory_return(member) async for group in run_groups(runner, tasks, 1) for member in group.members
        ]
    scored = [value for value in returns if value is not None]
    if not scored:
        raise RuntimeError(f"no episode of {env_name!r} got a reward: check the server")
    return Measurement(fmean(scored), len(scored))


async def ask_server(url: str, env_name: str | None) -> tuple[str, ToolList]:
    """The environment to train on, and its tools."""
    async with ORSClient(url) as client:
        env_name = env_name or (await client.list_environments())[0]
        return env_name, await client.list_tools(env_name)


def make_tiny_model(
    tools: ToolList, seed: int, advance_to: Callable[[float], None] = lambda share: None
) -> tuple[Any, Any]:
    """A model that knows the format of tool calls but not the task, and its tokenizer."""
    import torch
    from tiny_model import make_model, make_tokenizer, warm_up

    from ors_gym.policies.templates import template_tools

    torch.set_num_threads(1)  # more threads slow such a small model down
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, seed=seed)
    for share in warm_up(model, tokenizer, template_tools(tools) or [], seed=seed):
        advance_to(share)
    return model, tokenizer


def make_config(arguments: argparse.Namespace, output: Path, ranks: int = 1, **further: Any) -> Any:
    """GRPO's settings: small steps at a high rate for the tiny model, TRL's own otherwise.

    A batch is the same for any number of ``ranks``, each of which plays and trains on its part. If they do not divide
    it, it is larger by less than one prompt per rank.
    """
    import torch
    from trl import GRPOConfig

    tiny = arguments.model is None
    on_cpu = tiny or not torch.cuda.is_available()
    prompts_per_rank = -(-arguments.prompts_per_step // ranks)
    settings: dict[str, Any] = {"save_strategy": "no" if tiny else "steps"}
    if tiny:
        settings |= {
            "num_iterations": 4,  # episodes cost more than updates, and clipping allows several updates per batch
            "adam_beta2": 0.95,  # otherwise one surprising batch after many similar ones destabilizes the policy
            "entropy_coef": 0.01,  # a color that is never pressed can never be learned
            "max_grad_norm": 0.2,
        }
    if arguments.vllm_server:
        settings |= {
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": arguments.vllm_server,
            "vllm_importance_sampling_mode": "token_truncate",  # a product over all turns would mask long episodes
        }
    return GRPOConfig(
        output_dir=str(output),
        per_device_train_batch_size=arguments.group_size * (prompts_per_rank if tiny else 1),
        gradient_accumulation_steps=1 if tiny else prompts_per_rank,
        num_generations=arguments.group_size,
        max_steps=arguments.steps,
        max_completion_length=arguments.max_completion_length,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="constant",
        temperature=1.0,
        beta=0.0,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        gradient_checkpointing=not tiny,
        dataloader_pin_memory=not on_cpu,
        seed=arguments.seed,
        **settings | further,
    )


def train(arguments: argparse.Namespace, progress: RunProgress, cleanup: contextlib.ExitStack) -> None:
    """Measure a random policy, train, and show the run."""
    portal = cleanup.enter_context(Portal())
    url = arguments.url
    if url is None:
        with progress.phase("Starting an ORS server in a separate process"):
            url = cleanup.enter_context(local_server())
    env_name, tools = portal.run(ask_server(url, arguments.env))
    with progress.phase("Playing a random policy, for comparison"):
        baseline = portal.run(measure_random_policy(url, env_name, arguments))

    with progress.phase("Importing torch and TRL"):
        from transformers import PrinterCallback, TrainerCallback
        from trl import GRPOTrainer

        from ors_gym_trl import ORSRollouts, ReportCallback, TrajectoryCallback

    # TRL still uses names that transformers deprecates.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    tiny = arguments.model is None
    model, tokenizer = arguments.model, None
    if tiny:
        with progress.phase("Teaching the model the format of tool calls") as phase:
            model, tokenizer = make_tiny_model(tools, arguments.seed, phase.advance_to)

    limits = RolloutLimits(max_turns=arguments.max_turns)
    host: Any = None
    if not arguments.no_ray:
        with progress.phase(f"Starting {arguments.actors} Ray actors"):
            from ors_gym_ray import RolloutPool

            host = RolloutPool(
                url, num_actors=arguments.actors, limits=limits, tools=tools, address=arguments.ray_address
            )
            cleanup.callback(host.close)
    rollouts = ORSRollouts(
        url,
        env_name=env_name,
        split=arguments.split,
        limits=None if host else limits,
        host=host,
        parser=arguments.parser,
        max_turn_tokens=8 if tiny else None,
    )
    cleanup.callback(rollouts.close)

    record = RunRecord(
        title=f"GRPO on {env_name}",
        description=f"{arguments.model or 'A tiny model created here'}, trained by TRL's GRPOTrainer on episodes of "
        f"an ORS server, {'played in process' if host is None else f'hosted by {arguments.actors} Ray actors'}.",
        settings={**{name: str(value) for name, value in vars(arguments).items()}, "url": url, "env": env_name},
        baseline_reward=baseline,
        warmup=WARM_UP if tiny else "",
        records="trajectories.jsonl" if arguments.trajectories else "",
        beside={page: page for page in arguments.beside},
    )

    def show(step: StepRecord) -> None:
        if tiny and step.step == 1 and step.reward is not None:
            # The first batch was played before the first update.
            record.reward_after_warmup = Measurement(step.reward, step.episodes)
        progress.update(step.step, reward=step.reward, episodes=step.episodes, failures=step.failures)

    class StopWhenSolved(TrainerCallback):
        """Ends the demo when the task is solved."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if tiny and len(record.steps) >= 10 and last_reward(record) >= SOLVED:
                control.should_training_stop = True
                record.ended = f"solved: the last ten batches' mean reward is at least {SOLVED}"

    report = ReportCallback(rollouts, arguments.output / "report.html", record, on_step=show)
    kept = [TrajectoryCallback(rollouts, arguments.output / "trajectories.jsonl")] if arguments.trajectories else []
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        args=make_config(arguments, arguments.output),
        train_dataset=rollouts.train_dataset,
        rollout_func=rollouts.rollout_func,
        reward_funcs=rollouts.reward_funcs,
        callbacks=[report, StopWhenSolved(), *kept],
    )
    trainer.remove_callback(PrinterCallback)
    progress.steps(arguments.steps)
    try:
        trainer.train()
    except KeyboardInterrupt:
        record.ended = "interrupted"
    page = report.write()
    assert page is not None
    progress.finish(
        f"Mean reward {last_reward(record):.2f} at the end, {baseline.reward:.2f} by a random policy.\n"
        f"Look at the run: {page.resolve().as_uri()}"
    )
    if record.ended == "interrupted":
        sys.exit(130)


def last_reward(record: RunRecord) -> float:
    """The mean reward of the last ten batches of episodes; NaN if none was scored."""
    rewards = [step.reward for step in record.steps[-10:] if step.reward is not None]
    return fmean(rewards) if rewards else float("nan")


def main() -> None:
    """Run the demo, or the training configured by the arguments."""
    arguments = parse_arguments()
    with RunProgress("ors-gym: GRPO on an ORS server") as progress, contextlib.ExitStack() as cleanup:
        train(arguments, progress, cleanup)


if __name__ == "__main__":
    main()
