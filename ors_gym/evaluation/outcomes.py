"""The outcome of each episode, small enough to keep for all of them, and the results they add up to."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ors_gym.evaluation.results import ModelResult, TaskSample
from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.statistics import TaskScores
from ors_gym.evaluation.task_plan import TaskIdentity
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.trajectory import Trajectory

__all__ = ["Outcome", "Outcomes", "Prices", "outcome_of", "place_of"]

USAGE = ("turns", "calls", "refused_calls", "tool_errors", "output_tokens", "seconds")
"""What is measured of each episode, in the order it is shown."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One episode as an evaluation counts it; the episode itself is in the run's file."""

    task: TaskIdentity
    epoch: int
    value: float | None
    """The return, None for an episode that failed."""
    unrewarded: bool
    """No reward was given; ``value`` is what that is worth."""
    stop_reason: str
    failure: str | None
    """The kind of failure of the last attempt."""
    failed_attempts: int
    """Attempts that failed before this outcome, and with it."""
    episode_id: str
    turns: int
    calls: int
    refused_calls: int
    tool_errors: int
    output_tokens: int | None
    seconds: float
    prompt_sha256: str | None = None

    @property
    def first_attempt_failed(self) -> bool:
        """Whether the first attempt failed, also if a later one was completed."""
        return self.failed_attempts > 0


def outcome_of(episode: Trajectory, task: TaskIdentity, epoch: int, rules: Rules, *, failed_attempts: int) -> Outcome:
    """What an episode counts as under ``rules``."""
    value = trajectory_return(episode, rules.reward, unrewarded_return=None)
    unrewarded = value is None and not episode.failed
    outputs = [transition.output for transition in episode.transitions]
    refused = [output for output in outputs if not output.ok]
    return Outcome(
        task,
        epoch,
        rules.unrewarded if unrewarded else value,
        unrewarded,
        str(episode.stop_reason),
        None if episode.failure is None else episode.failure.kind,
        failed_attempts,
        episode.episode_id,
        episode.num_turns,
        len(outputs),
        len(refused),
        sum(output.reason in ("tool_error", "tool_failed") for output in refused),
        episode.num_tokens,
        episode.seconds,
        _prompt_sha256(episode),
    )


def _prompt_sha256(episode: Trajectory) -> str | None:
    """The hash of what the agent read before its first message, to notice a changed prompt."""
    prompt = episode.prompt
    if episode.failed or not prompt:
        return None
    text = json.dumps([message.to_wire() for message in prompt], sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


Prices = Mapping[str, Mapping[str, float]]
"""US dollars per million tokens, by model and kind of token: ``{"gpt-5-mini": {"output_tokens": 2.0}}``."""


class Outcomes:
    """The outcomes of one model, added to while its run goes on."""

    def __init__(self, model: str, rules: Rules, about: Mapping[str, Any]) -> None:
        self.model = model
        self.rules = rules
        self.about = about
        self._by_episode: dict[tuple[str, int], Outcome] = {}
        self.total_output_tokens: int | None = None
        """Tokens that the model wrote, failed episodes included; None where it did not say."""

    def __len__(self) -> int:
        return len(self._by_episode)

    def add(self, outcome: Outcome) -> None:
        """Add an outcome. One of the same task and epoch that failed before is replaced, its attempts counted."""
        key = outcome.task.label, outcome.epoch
        before = self._by_episode.get(key)
        if before is not None:
            outcome = replace(outcome, failed_attempts=outcome.failed_attempts + before.failed_attempts)
        self._by_episode[key] = outcome
        if outcome.output_tokens is not None:
            self.total_output_tokens = (self.total_output_tokens or 0) + outcome.output_tokens

    @property
    def all(self) -> Iterable[Outcome]:
        """Every outcome, in the order of the tasks and epochs."""
        return sorted(self._by_episode.values(), key=lambda outcome: (place_of(outcome.task.label), outcome.epoch))

    def epochs_done(self, *, failed_count: bool) -> dict[str, set[int]]:
        """The epochs that need not be played again, by the task's label."""
        done: dict[str, set[int]] = defaultdict(set)
        for (label, epoch), outcome in self._by_episode.items():
            if failed_count or outcome.failure is None:
                done[label].add(epoch)
        return done

    def identities(self) -> dict[str, TaskIdentity]:
        """Each task that was played, by its label."""
        return {outcome.task.label: outcome.task for outcome in self._by_episode.values()}

    def result(self, name: str | None = None, prices: Prices | None = None) -> ModelResult:
        """What the outcomes add up to."""
        by_task: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in self.all:
            by_task[outcome.task.label].append(outcome)
        sample: Mapping[str, Any] = self.about.get("sample") or {}
        stratify_by = sample.get("stratify_by")
        strata = {label: rows[0].task.fields.get(stratify_by, "") for label, rows in by_task.items() if stratify_by}
        return ModelResult(
            name or self.model,
            tuple(_scores(rows, self.rules) for rows in by_task.values()),
            self.rules,
            TaskSample(sample.get("num_tasks"), strata, dict(sample.get("stratum_sizes") or {})),
            self.about,
            self.usage(prices),
            len(self) >= (self.about.get("episodes") or 0),
        )

    def usage(self, prices: Prices | None = None) -> dict[str, float | None]:
        """Means over the episodes that did not fail, the total of tokens, and its cost where a price is known."""
        played = [outcome for outcome in self._by_episode.values() if outcome.failure is None]
        usage: dict[str, float | None] = {}
        for name in USAGE:
            values = [value for outcome in played if (value := getattr(outcome, name)) is not None]
            usage[f"mean_{name}"] = math.fsum(values) / len(values) if values else None
        usage["total_output_tokens"] = self.total_output_tokens
        if self.model in (prices or {}):
            usage["cost"] = self.cost(prices or {})
        return usage

    def cost(self, prices: Prices) -> float:
        """The cost of the tokens in US dollars; 0 for a model without a price."""
        return prices.get(self.model, {}).get("output_tokens", 0.0) * (self.total_output_tokens or 0) / 1e6

    def stop_reasons(self) -> Counter[str]:
        """Outcomes by how their episode ended."""
        return Counter(outcome.stop_reason for outcome in self._by_episode.values())


def place_of(label: str) -> tuple[str, int]:
    """Of a label such as ``test[12]``: sorted by number, not by text."""
    name, _, index = label.rstrip("]").rpartition("[")
    return (name, int(index)) if index.isdigit() else (label, -1)


def _scores(rows: Sequence[Outcome], rules: Rules) -> TaskScores:
    task = rows[0].task
    values = [(row.value, row.unrewarded) for row in rows if row.value is not None]
    return TaskScores(
        task.label,
        tuple(value for value, _ in values),
        unrewarded=sum(unrewarded for _, unrewarded in values),
        failed=len(rows) - len(values),
        first_attempts_failed=sum(row.first_attempt_failed for row in rows),
        cluster=task.fields.get(rules.cluster_by) if rules.cluster_by is not None else None,
        sha256=task.sha256,
        prompt_sha256=next((row.prompt_sha256 for row in rows if row.prompt_sha256), None),
    )
