"""The effect of waiting for fewer than all episodes on training: the bias of five rules for stragglers, simulated.

    python benchmarks/stragglers.py

A policy with one parameter decides after each turn whether to continue, and the reward depends on the length: it grows
with the length ("long pays"), falls with it ("short pays"), or is given turn by turn ("each turn pays"). Turns take a
different time in each episode. Groups of 8 give GRPO's gradient; the rules differ in the episodes it uses:

- all: the step waits for every episode.
- redundancy: 10 are played, the first 8 to end are kept, the others are dropped.
- left out: late ones are dropped at a deadline, like failed episodes.
- truncated: late ones end at a deadline with their rewards so far: 0 if only the end is rewarded.
- carried over: a group that is incomplete at a deadline moves to the next step, which trains on all of it.

The deadline is 1.5 times the duration of the sixth of a group's eight episodes. Printed for a fixed policy: the
gradient relative to that of "all" (100 % is no bias; below 0 the policy is pushed the wrong way), the logged and the
true mean return, and the time of a step relative to "all". After training: the true return, and the best possible one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUP, EXTRA, GROUPS, MAX_TURNS = 8, 2, 32, 64
PACE, SIXTH, FACTOR = 0.5, 6, 1.5
STEPS, RATE, CHUNK = 300, 0.05, 40_000

Floats = NDArray[np.float64]


@dataclass
class Episodes:
    """Episodes of groups: ``turns`` made, whether each ``ended`` by itself, its ``returns``, its ``seconds``."""

    turns: Floats
    ended: NDArray[np.bool_]
    returns: Floats
    seconds: Floats


TASKS: dict[str, tuple[Callable[[Floats], Floats], bool]] = {
    "long pays": (lambda turns: 1 - np.exp(-turns / 8), False),
    "short pays": (lambda turns: np.exp(-turns / 8), False),
    "each turn pays": (lambda turns: np.minimum(turns, 16) / 16, True),
}
"""The probability of success by length, or the rewards so far."""


class Simulation:
    """One task under one policy."""

    def __init__(self, task: str, seed: int) -> None:
        self.worth, self.dense = TASKS[task]
        self.draw = np.random.default_rng(seed)

    def play(self, theta: float, groups: int, members: int) -> Episodes:
        """Episodes to their end."""
        stop = 1 / (1 + np.exp(theta))
        turns = self.draw.geometric(stop, (groups, members)).astype(float)
        ended = turns <= MAX_TURNS
        turns = np.minimum(turns, MAX_TURNS)
        seconds = turns * self.draw.lognormal(0, PACE, turns.shape)
        return Episodes(turns, ended, self.returns(turns), seconds)

    def returns(self, turns: Floats) -> Floats:
        """The rewards of episodes with these lengths, at their ends or turn by turn."""
        value = self.worth(turns)
        return value if self.dense else (self.draw.random(turns.shape) < value).astype(float)

    def true_return(self, theta: float) -> float:
        """The mean return of the policy."""
        return float(self.play(theta, CHUNK // GROUP, GROUP).returns.mean())


def advantages(returns: Floats, counts: NDArray[np.bool_]) -> Floats:
    """GRPO's advantages over the counted members; 0 for the others."""
    number = np.maximum(counts.sum(1, keepdims=True), 1)
    mean = np.where(counts, returns, 0).sum(1, keepdims=True) / number
    centred = np.where(counts, returns - mean, 0)
    deviation = np.sqrt((centred**2).sum(1, keepdims=True) / np.maximum(number - 1, 1))
    return np.where(deviation > 0, centred / (deviation + 1e-4), 0)


def gradient(theta: float, episodes: Episodes, counts: NDArray[np.bool_]) -> float:
    """The policy gradient: every turn but the last one is a decision to continue."""
    go = 1 / (1 + np.exp(-theta))
    score = (episodes.turns - episodes.ended) * (1 - go) - episodes.ended * go
    return float((advantages(episodes.returns, counts) * score * counts).sum() / max(counts.sum(), 1))


def deadline(episodes: Episodes) -> Floats:
    """Of each group."""
    return FACTOR * np.sort(episodes.seconds, 1)[:, SIXTH - 1 : SIXTH]


@dataclass
class Step:
    """The episodes that a rule trains on, and the time of the step."""

    episodes: Episodes
    counts: NDArray[np.bool_]
    seconds: float


Rule = Callable[[Simulation, float, int], Step]


def wait_for_all(simulation: Simulation, theta: float, groups: int) -> Step:
    """No rule."""
    episodes = simulation.play(theta, groups, GROUP)
    return Step(episodes, np.ones(episodes.turns.shape, bool), _batches(episodes.seconds.max(1)))


def redundancy(simulation: Simulation, theta: float, groups: int) -> Step:
    """The first 8 of 10."""
    episodes = simulation.play(theta, groups, GROUP + EXTRA)
    place = episodes.seconds.argsort(1).argsort(1)
    return Step(episodes, place < GROUP, _batches(np.sort(episodes.seconds, 1)[:, GROUP - 1]))


def left_out(simulation: Simulation, theta: float, groups: int) -> Step:
    """Late episodes are dropped."""
    episodes = simulation.play(theta, groups, GROUP)
    until = deadline(episodes)
    return Step(episodes, episodes.seconds <= until, _batches(np.minimum(until[:, 0], episodes.seconds.max(1))))


def truncated(simulation: Simulation, theta: float, groups: int) -> Step:
    """Late episodes are truncated."""
    episodes = simulation.play(theta, groups, GROUP)
    until = deadline(episodes)
    late = episodes.seconds > until
    made = np.where(late, np.floor(episodes.turns * until / episodes.seconds), episodes.turns)
    worth = np.where(late, simulation.worth(made) if simulation.dense else 0.0, episodes.returns)
    cut = Episodes(made, episodes.ended & ~late, worth, np.minimum(episodes.seconds, until))
    return Step(cut, np.ones(late.shape, bool), _batches(cut.seconds.max(1)))


class CarriedOver:
    """A late group is trained on one step later; this step has another one that was late before."""

    def __init__(self) -> None:
        self.carried: Episodes | None = None

    def __call__(self, simulation: Simulation, theta: float, groups: int) -> Step:
        """One step."""
        episodes = simulation.play(theta, groups, GROUP)
        until = deadline(episodes)[:, 0]
        slowest = episodes.seconds.max(1)
        late = slowest > until
        now = _take(episodes, ~late)
        ready = now if self.carried is None else _join(now, self.carried)
        self.carried = _take(episodes, late)
        return Step(ready, np.ones(ready.turns.shape, bool), _batches(np.minimum(until, slowest)))


def _take(episodes: Episodes, which: NDArray[np.bool_]) -> Episodes:
    return Episodes(*(field[which] for field in vars(episodes).values()))


def _join(first: Episodes, second: Episodes) -> Episodes:
    return Episodes(*(np.concatenate(pair) for pair in zip(vars(first).values(), vars(second).values(), strict=True)))


def _batches(seconds: Floats) -> float:
    """The mean time of steps of ``GROUPS`` groups that end with their slowest."""
    whole = seconds[: len(seconds) // GROUPS * GROUPS] if len(seconds) >= GROUPS else seconds
    return float(whole.reshape(-1, min(GROUPS, len(whole))).max(1).mean())


RULES: dict[str, Callable[[], Rule]] = {
    "all": lambda: wait_for_all,
    "redundancy": lambda: redundancy,
    "left out": lambda: left_out,
    "truncated": lambda: truncated,
    "carried over": CarriedOver,
}


def at_a_fixed_policy(task: str, rule: Rule, theta: float, seed: int) -> tuple[float, float, float]:
    """The gradient, the logged return and the time of a step."""
    simulation = Simulation(task, seed)
    steps = [rule(simulation, theta, 8 * GROUPS) for _ in range(200)][10:]
    of_gradient = np.mean([gradient(theta, step.episodes, step.counts) for step in steps])
    returns = np.mean([step.episodes.returns[step.counts].mean() for step in steps])
    return float(of_gradient), float(returns), float(np.mean([step.seconds for step in steps]))


def train(task: str, rule: Rule, theta: float, seed: int) -> float:
    """The true return after training."""
    simulation = Simulation(task, seed)
    for _ in range(STEPS):
        step = rule(simulation, theta, GROUPS)
        theta += RATE * gradient(theta, step.episodes, step.counts) if step.counts.any() else 0.0
    return simulation.true_return(theta)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theta", type=float, default=2.0, help="the initial policy (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="trainings (default: %(default)s)")
    arguments = parser.parse_args()
    theta: float = arguments.theta
    print("| task | rule | gradient | logged return (true) | time of a step | return after training |")
    print("|---|---|---|---|---|---|")
    for task in TASKS:
        true = Simulation(task, 1).true_return(theta)
        reference = at_a_fixed_policy(task, wait_for_all, theta, 0)
        for name, make in RULES.items():
            of_gradient, returns, seconds = at_a_fixed_policy(task, make(), theta, 0)
            after = [train(task, make(), theta, seed) for seed in range(arguments.seeds)]
            cells = [
                f"{of_gradient / reference[0]:.0%}",
                f"{returns:.3f} ({true:.3f})",
                f"{seconds / reference[2]:.0%}",
                f"{np.mean(after):.3f} ± {np.std(after):.3f}",
            ]
            print(f"| {task} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
