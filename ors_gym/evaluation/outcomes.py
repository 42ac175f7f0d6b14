"""The outcome of each episode, small enough to keep for all episodes, and the results computed from them."""

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

__all__ = ["Outcome", "Outcomes", "Prices", "outcome_of", "place_of", "tokens_of"]

TOKENS = ("input_tokens", "cached_tokens", "reasoning_tokens", "output_tokens")
"""Kinds of tokens: read by the model, of these cached; written as reasoning; and written in all."""
USAGE = ("turns", "calls", "refused_calls", "tool_errors", *TOKENS, "seconds")
"""Measurements of each episode, in display order."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One episode as an evaluation counts it; the trajectory itself is in the run's file."""

    task: TaskIdentity
    epoch: int
    value: float | None
    """The return, None for an episode that failed."""
    unrewarded: bool
    """Whether no reward was given; ``value`` is then the rules' ``unrewarded``."""
    stop_reason: str
    failure: str | None
    """The kind of failure of the last attempt."""
    failed_attempts: int
    """Failed attempts at this episode, including this one if it failed."""
    episode_id: str
    turns: int
    calls: int
    refused_calls: int
    tool_errors: int
    input_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    output_tokens: int | None
    seconds: float
    prompt_sha256: str | None = None

    @property
    def first_attempt_failed(self) -> bool:
        """Whether the first attempt failed, even if a later one completed."""
        return self.failed_attempts > 0


def outcome_of(episode: Trajectory, task: TaskIdentity, epoch: int, rules: Rules, *, failed_attempts: int) -> Outcome:
    """The outcome of an episode under ``rules``."""
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
        sum(output.tool_raised for output in refused),
        *tokens_of(episode),
        episode.seconds,
        _prompt_sha256(episode),
    )


def tokens_of(episode: Trajectory) -> tuple[int | None, int | None, int | None, int | None]:
    """Tokens of an episode by kind, in the order of ``TOKENS``; None if no reply reports them."""
    replies = [exchange.reply for exchange in episode.exchanges]
    return (
        _total(reply.num_prompt_tokens for reply in replies),
        _total(reply.num_cached_tokens for reply in replies),
        _total(reply.num_reasoning_tokens for reply in replies),
        _total(reply.num_tokens for reply in replies),
    )


def _total(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _prompt_sha256(episode: Trajectory) -> str | None:
    """Hash of the messages before the agent's first one; detects a changed prompt."""
    prompt = episode.prompt
    if episode.failed or not prompt:
        return None
    text = json.dumps([message.to_wire() for message in prompt], sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


Prices = Mapping[str, Mapping[str, float]]
"""US dollars per million tokens by model: ``{"gpt-5-mini": {"input_tokens": 0.25, "output_tokens": 2.0}}``, and
``cached_tokens`` if cached input costs less. Reasoning tokens are part of ``output_tokens``."""


class Outcomes:
    """The outcomes of one model, collected during a run."""

    def __init__(self, model: str, rules: Rules, about: Mapping[str, Any]) -> None:
        self.model = model
        self.rules = rules
        self.about = about
        self._by_episode: dict[tuple[str, int], Outcome] = {}
        self.tokens: Counter[str] = Counter()
        """Tokens by kind, including those of failed attempts; kinds that no reply reports are absent."""

    def __len__(self) -> int:
        return len(self._by_episode)

    def add(self, outcome: Outcome) -> None:
        """Add an outcome. It replaces a failed one of the same task and epoch, and includes its attempts."""
        key = outcome.task.label, outcome.epoch
        before = self._by_episode.get(key)
        if before is not None:
            outcome = replace(outcome, failed_attempts=outcome.failed_attempts + before.failed_attempts)
        self._by_episode[key] = outcome
        self.count_tokens([getattr(outcome, kind) for kind in TOKENS])

    def count_tokens(self, numbers: Iterable[int | None]) -> None:
        """Count the tokens of an attempt, given in the order of ``TOKENS``."""
        for kind, number in zip(TOKENS, numbers, strict=True):
            if number is not None:
                self.tokens[kind] += number

    @property
    def all(self) -> Iterable[Outcome]:
        """All outcomes, ordered by task and epoch."""
        return sorted(self._by_episode.values(), key=lambda outcome: (place_of(outcome.task.label), outcome.epoch))

    def epochs_done(self, *, failed_count: bool) -> dict[str, set[int]]:
        """The epochs that need not be played again, by task label."""
        done: dict[str, set[int]] = defaultdict(set)
        for (label, epoch), outcome in self._by_episode.items():
            if failed_count or outcome.failure is None:
                done[label].add(epoch)
        return done

    def identities(self) -> dict[str, TaskIdentity]:
        """The identity of each played task, by label."""
        return {outcome.task.label: outcome.task for outcome in self._by_episode.values()}

    def result(self, name: str | None = None, prices: Prices | None = None) -> ModelResult:
        """The result of these outcomes."""
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
        """Means over the episodes that did not fail, total tokens, and their cost if the model has a price."""
        played = [outcome for outcome in self._by_episode.values() if outcome.failure is None]
        usage: dict[str, float | None] = {}
        for name in USAGE:
            values = [value for outcome in played if (value := getattr(outcome, name)) is not None]
            usage[f"mean_{name}"] = math.fsum(values) / len(values) if values else None
        usage |= {f"total_{kind}": self.tokens.get(kind) for kind in TOKENS}
        if self.model in (prices or {}):
            usage["cost"] = self.cost(prices or {})
        return usage

    def cost(self, prices: Prices) -> float:
        """The cost of the tokens in US dollars; 0 for a model without a price."""
        price, read, kept = prices.get(self.model, {}), self.tokens["input_tokens"], self.tokens["cached_tokens"]
        per_input = price.get("input_tokens", 0.0)
        dollars = per_input * (read - kept) + price.get("cached_tokens", per_input) * kept
        return (dollars + price.get("output_tokens", 0.0) * self.tokens["output_tokens"]) / 1e6

    def stop_reasons(self) -> Counter[str]:
        """Number of outcomes by stop reason."""
        return Counter(outcome.stop_reason for outcome in self._by_episode.values())


def place_of(label: str) -> tuple[str, int]:
    """Sort key of a label such as ``test[12]``: by number, not by text."""
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
