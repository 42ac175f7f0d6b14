"""One step of GRPOTrainer through ``environment_factory`` and through ``rollout_func``: what each does.

    python benchmarks/environment_factory.py

The model, tasks and server are the same. An episode takes 0.1 s to set up and ends with its second call; each call
takes 0.2 s. The factory is the shortest one that plays ORS episodes.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel
from trl_rollouts import ROOT, trainer_of

sys.path[:0] = [str(ROOT), str(ROOT / "integrations")]

from ors_gym import ToolOutput  # noqa: E402
from ors_gym.client.portal import Portal  # noqa: E402
from ors_gym.client.session import Session  # noqa: E402
from ors_gym.types import TextBlock  # noqa: E402

EPISODES = 16
SETUP_SECONDS, CALL_SECONDS = 0.1, 0.2
FAULTS = ("none", "set-up", "tool", "reward")


def main() -> None:
    """Print the table."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with running_server() as url:
        paths: dict[str, Callable[[str, str], dict[str, Any]]] = {
            "environment_factory": with_factory,
            "rollout_func": with_rollouts,
        }
        for name, path in paths.items():
            for fault in FAULTS:
                print(name, fault, path(url, fault), flush=True)


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """A server in its own process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([sys.executable, __file__, "--serve", str(port)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def serve_buttons(port: int) -> None:
    """The environment; the splits are named after the fault in the first of each group's episodes."""
    import asyncio

    from ors_gym_server import Environment, serve, tool

    begun: Counter[str] = Counter()

    class Buttons(Environment):
        @classmethod
        def list_splits(cls) -> list[str]:
            return list(FAULTS)

        @classmethod
        def list_tasks(cls, split: str) -> list[dict[str, Any]]:
            return [{"number": number, "split": split} for number in range(64)]

        async def setup(self) -> None:
            await asyncio.sleep(SETUP_SECONDS)
            begun[self.task_spec["split"]] += 1
            self.faulty = begun[self.task_spec["split"]] % 8 == 1
            self.calls = 0
            if self.faulty and self.task_spec["split"] == "set-up":
                raise RuntimeError("no sandbox is free")

        def get_prompt(self) -> str:
            return "find the button ."

        @tool
        async def look(self, _: NoInput) -> ToolOutput:
            """Look."""
            return await self._work(0.0)

        @tool
        async def press(self, pressed: Color) -> ToolOutput:
            """Press a button."""
            return await self._work(float(pressed.color == "red"))

        async def _work(self, reward: float) -> ToolOutput:
            await asyncio.sleep(CALL_SECONDS)
            self.calls += 1
            if self.faulty and self.task_spec["split"] == "tool":
                raise RuntimeError("the button broke")
            given = None if self.faulty and self.task_spec["split"] == "reward" else reward
            return ToolOutput((TextBlock("ok ."),), reward=given, finished=self.calls == 2)

    serve([Buttons], port=port, started=lambda url: print(url, flush=True))


class NoInput(BaseModel):
    """Nothing to say."""


class Color(BaseModel):
    """Which button to press."""

    color: str


class Watch:
    """Counts how sessions are used."""

    def __init__(self) -> None:
        self.at_once: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.reasons: Counter[str] = Counter()
        self.finished = 0
        self.open: set[Session] = set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Wrap the observed methods."""
        kept = Session.open, Session.get_messages, Session.call_tool, Session.close

        async def counted(kind: str, work: Any) -> Any:
            self.at_once[kind] += 1
            self.most[kind] = max(self.most[kind], self.at_once[kind])
            self.first.setdefault(kind, time.monotonic())
            try:
                return await work
            finally:
                self.at_once[kind] -= 1
                self.last[kind] = time.monotonic()

        async def open_session(session: Session) -> None:
            await counted("set-up", kept[0](session))
            self.open.add(session)

        async def get_messages(session: Session) -> Any:
            return await counted("set-up", kept[1](session))

        async def call_tool(session: Session, name: str, input: Any = None) -> ToolOutput:
            after = session.finished
            output: ToolOutput = await counted("call", kept[2](session, name, input))
            self.reasons[output.reason or ""] += 1
            self.finished += after
            return output

        async def close(session: Session) -> None:
            self.open.discard(session)
            await kept[3](session)

        Session.open, Session.get_messages, Session.call_tool, Session.close = (  # type: ignore[method-assign]
            open_session, get_messages, call_tool, close
        )  # fmt: skip
        try:
            yield
        finally:
            Session.open, Session.get_messages, Session.call_tool, Session.close = kept  # type: ignore[method-assign]


def step(dataset: Any, slots: dict[str, Any]) -> dict[str, Any]:
    """Train one step and return the observations."""
    watch = Watch()
    with watch.watching(), trainer_of(dataset, EPISODES, 1, slots, {}) as trainer:
        seen: dict[str, Any] = {}
        sampled: list[tuple[int, ...]] = []
        generate, sample, score = (
            trainer._generate, trainer._generate_single_turn, trainer._generate_and_score_completions
        )  # fmt: skip

        def recorded_sample(*args: Any, **kwargs: Any) -> Any:
            completions, logprobs = sample(*args, **kwargs)
            sampled.extend(map(tuple, completions))
            return completions, logprobs

        def recorded_generate(prompts: Any) -> Any:
            outcome = generate(prompts)
            if sampled:
                runs = [run for ids, mask in zip(outcome[1], outcome[2], strict=True) for run in runs_of(ids, mask)]
                seen["sampled turns trained on as sampled"] = f"{sum(run in sampled for run in runs)} of {len(runs)}"
            return outcome

        def recorded_score(inputs: Any) -> Any:
            started = time.monotonic()
            outcome = score(inputs)
            seen["rollout s"] = round(time.monotonic() - started, 2)
            seen["advantage 0"] = int((outcome["advantages"] == 0).sum())
            return outcome

        trainer._generate, trainer._generate_single_turn = recorded_generate, recorded_sample
        trainer._generate_and_score_completions = recorded_score
        try:
            with contextlib.redirect_stdout(None):
                trainer.train()
        except Exception as error:
            seen["the training ended with"] = f"{type(error).__name__}: {str(error)[:60]}"
        left = len(watch.open)
    return seen | {
        "set-up s": round(watch.last["set-up"] - watch.first["set-up"], 2),
        "concurrent set-ups": watch.most["set-up"],
        "calls at once": watch.most["call"],
        "calls": sum(watch.reasons.values()),
        "calls after finished": watch.finished,
        "sessions left open": left,
    }


def runs_of(ids: Any, mask: Any) -> Iterator[tuple[int, ...]]:
    """The spans of tokens that the model generated."""
    run: list[int] = []
    for token, own in zip(ids, mask, strict=True):
        if own:
            run.append(token)
        elif run:
            yield tuple(run)
            run = []
    if run:
        yield tuple(run)


def with_factory(url: str, fault: str) -> dict[str, Any]:
    """Through ``environment_factory``."""
    from datasets import Dataset

    portal = Portal()

    class ButtonsEnvironment:
        """One reusable instance per index of a batch, as TRL requires."""

        session: Session | None = None

        def reset(self, number: int, **row: Any) -> str:
            if self.session is not None:
                portal.run(self.session.close())
            self.rewards: list[float | None] = []
            self.session = portal.client(url).session("buttons", split=fault, index=number)
            portal.run(self.session.open())
            return portal.run(self.session.get_messages())[0].text

        def look(self) -> str:
            """Look."""
            return self._call("look", {})

        def press(self, color: str) -> str:
            """Press a button.

            Args:
                color: Which one.
            """
            return self._call("press", {"color": color})

        def get_reward(self) -> float | None:
            given = [reward for reward in self.rewards if reward is not None]
            return sum(given) if given else None

        def _call(self, name: str, input: dict[str, str]) -> str:
            assert self.session is not None
            output = portal.run(self.session.call_tool(name, input))
            self.rewards.append(output.reward)
            return output.text if output.ok else output.error

    rows = [{"prompt": [{"role": "user", "content": ""}], "number": number} for number in range(64)]
    slots = {"environment_factory": ButtonsEnvironment}
    try:
        return step(Dataset.from_list(rows), slots)
    finally:
        portal.close()


def with_rollouts(url: str, fault: str) -> dict[str, Any]:
    """Through ``rollout_func``."""
    from ors_gym_trl import ORSRollouts

    with ORSRollouts(url, env_name="buttons", split=fault, max_turn_tokens=8, unrewarded_return=None) as rollouts:
        slots = {"rollout_func": rollouts.rollout_func, "reward_funcs": rollouts.reward_funcs}
        return step(rollouts.train_dataset, slots)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve_buttons(int(sys.argv[2]))
    else:
        main()
