"""Pairing of two results by task: which tasks are the same in both, their differences, and the tests of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from ors_gym.evaluation.comparison import Comparison, Flip, Test
from ors_gym.evaluation.results import ModelResult
from ors_gym.evaluation.statistics import (
    Estimate,
    Interval,
    TaskScores,
    holm,
    mcnemar,
    mean_estimate,
    sign_flip_p,
    success_rate,
    t_test_p,
)
from ors_gym.evaluation.words import counted, percent, play_of

__all__ = ["compare_pairs", "compare_results"]

MAX_GAP = 0.05
"""Between the shares of failed first attempts: retries replace hard episodes by luckier ones."""
ROUNDING = Fraction(1, 10**9)
SHARED_SETTINGS = (
    "env",
    "split",
    "max_turns",
    "max_tokens",
    "max_episode_seconds",
    "toolset",
    "tool_errors",
    "tools_sha256",
    "score_group",
)
"""Settings that two runs must share, if both record them."""


def compare_results(base: ModelResult, others: Sequence[ModelResult]) -> tuple[Comparison, ...]:
    """Compare each of ``others`` with ``base``; see :func:`compare_pairs`."""
    return compare_pairs([(base, other) for other in others])


def compare_pairs(pairs: Sequence[tuple[ModelResult, ModelResult]]) -> tuple[Comparison, ...]:
    """Compare the second of each pair with the first, with Holm's adjustment over all pairs.

    Tasks are paired by the hash of their JSON if both runs have it, else by their index in the split.
    """
    compared = [_compare(base, other) for base, other in pairs]
    tested = [index for index, comparison in enumerate(compared) if comparison.p is not None]
    adjusted = holm([compared[index].p or 0.0 for index in tested])
    for index, p in zip(tested, adjusted, strict=True):
        compared[index] = replace(compared[index], adjusted_p=p, num_comparisons=len(tested))
    return tuple(compared)


def _compare(base: ModelResult, other: ModelResult) -> Comparison:
    rules = other.rules
    hashed = all(task.sha256 is not None for result in (base, other) for task in result.scores)
    left, right = (_keyed(_measured(result), hashed=hashed) for result in (base, other))
    common = [task for task in left if task in right]
    only_base = {left[task].task for task in left if task not in right}
    only_other = {right[task].task for task in right if task not in left}
    changed = only_base & only_other
    prompts = [(left[task].prompt_sha256, right[task].prompt_sha256) for task in common]
    notes = list[str]()
    if not hashed:
        notes.append("Tasks are identified by their index: a run does not have their hashes.")
    new_prompts = sum(None not in pair and pair[0] != pair[1] for pair in prompts)
    if new_prompts:
        notes.append(f"The prompt of {counted(new_prompts, 'task')} differs.")
    scored = [task for task in common if left[task].scored and right[task].scored]
    exact = [_difference_of(left[task], right[task]) for task in scored]
    is_rate = rules.metric == "success"
    values = [float(difference) for difference in exact]
    both = [replace(right[task], returns=left[task].returns + right[task].returns) for task in scored]
    estimate = _difference(both, values)
    flips = [
        Flip(right[task].task, left[task].mean, right[task].mean)
        for task, difference in zip(scored, exact, strict=True)
        if difference
    ]
    flips.sort(key=lambda flip: (-abs(flip.difference), flip.task))
    testable = estimate.value is not None and (estimate.interval is not None or estimate.se == 0.0)
    p = t_test_p(estimate.value or 0.0, estimate.se, estimate.df) if testable else None
    tests = _tests([(left[task], right[task]) for task in scored], exact if is_rate else values, is_rate=is_rate)
    if p is None and estimate.se == 0.0:
        p = tests[-1].p  # every task differs by the same amount
    bounds = _bounds([left[task] for task in common], [right[task] for task in common]) if is_rate else None
    better = sum(difference > 0 for difference in exact)
    worse = sum(difference < 0 for difference in exact)
    return Comparison(
        base.name,
        other.name,
        rules,
        estimate,
        p,
        p,
        1,
        tests,
        better,
        worse,
        len(exact) - better - worse,
        tuple(flips),
        bounds,
        tuple(sorted(changed)),
        tuple(sorted(only_base - changed)),
        tuple(sorted(only_other - changed)),
        tuple(right[task].task for task in common if not (left[task].scored and right[task].scored)),
        tuple(_reasons(base, other, estimate.interval, bounds)),
        (*notes, *_warnings(base, other)),
        play_of([right[task] for task in scored]),
    )


def _keyed(scores: Sequence[TaskScores], *, hashed: bool) -> dict[str, TaskScores]:
    """Tasks by a key shared by both runs. Of tasks with equal hashes, the n-th of one run matches that of the other."""
    if not hashed:
        return {task.task: task for task in scores}
    seen: Counter[str | None] = Counter()
    keyed: dict[str, TaskScores] = {}
    for task in scores:
        keyed[f"{task.sha256} {seen[task.sha256]}"] = task
        seen[task.sha256] += 1
    return keyed


def _measured(result: ModelResult) -> Sequence[TaskScores]:
    if result.rules.metric == "return":
        return result.scores
    return [task.as_successes(result.rules.success_at) for task in result.scores]


def _difference_of(base: TaskScores, other: TaskScores) -> Fraction:
    """The exact difference of the means, for exact sign flips; 0 if it is only rounding error."""
    means = [sum(map(Fraction, task.returns), Fraction(0)) / task.scored for task in (base, other)]
    difference = means[1] - means[0]
    return difference if abs(difference) > ROUNDING else Fraction(0)


def _difference(tasks: Sequence[TaskScores], values: Sequence[float]) -> Estimate:
    """The mean difference with its t interval, never marked as rough: differences are nearly symmetric."""
    estimate = mean_estimate(tasks, values)
    return replace(estimate, notes=()) if estimate.interval is not None else estimate


def _tests(
    pairs: Sequence[tuple[TaskScores, TaskScores]], differences: Sequence[float | Fraction], *, is_rate: bool
) -> tuple[Test, ...]:
    """McNemar's tests for one epoch, sign flips for several."""
    if is_rate and pairs and all(left.scored == right.scored == 1 for left, right in pairs):
        only_base = sum(difference < 0 for difference in differences)
        exact, mid = mcnemar(only_base, sum(difference > 0 for difference in differences))
        return Test("McNemar mid-p", mid), Test("McNemar exact", exact)
    p, how = sign_flip_p(differences)
    return (Test(f"sign flips, {how}", p),)


def _bounds(left: Sequence[TaskScores], right: Sequence[TaskScores]) -> Interval | None:
    """The smallest and largest difference that the failed episodes could hide, over all tasks."""

    def rate(scores: Sequence[TaskScores], failed_as: float) -> float | None:
        return success_rate([task.with_failed_as(failed_as) for task in scores]).value

    ends = rate(left, 0.0), rate(left, 1.0), rate(right, 0.0), rate(right, 1.0)
    if any(end is None for end in ends):
        return None
    base_low, base_high, other_low, other_high = (end or 0.0 for end in ends)
    return other_low - base_high, other_high - base_low


def _reasons(base: ModelResult, other: ModelResult, interval: Interval | None, bounds: Interval | None) -> list[str]:
    reasons = [
        f"{result.counts['failed']:,} of {result.counts['episodes']:,} episodes of {result.name} failed"
        f" ({percent(result.failed_share)} %, limit {percent(result.rules.max_failed)} %)"
        for result in (base, other)
        if result.too_many_failed
    ]
    reasons += [f"the run of {result.name} is not complete" for result in (base, other) if not result.complete]
    shares = base.first_failed_share, other.first_failed_share
    if abs(shares[0] - shares[1]) > MAX_GAP:
        both = f"{percent(shares[0])} % of {base.name} and {percent(shares[1])} % of {other.name}"
        reasons.append(f"first attempts failed in {both}, and retries favour short episodes")
    if interval is not None and bounds is not None and interval[0] * interval[1] > 0.0 > bounds[0] * bounds[1]:
        reasons.append("the failed episodes could reverse the difference")
    reasons += [
        f"{name} is {base.about[name]!r} in {base.name} and {other.about[name]!r} in {other.name}"
        for name in SHARED_SETTINGS
        if name in base.about and name in other.about and base.about[name] != other.about[name]
    ]
    if base.rules != other.rules:
        reasons.append("they are scored by different rules")
    return reasons


def _warnings(base: ModelResult, other: ModelResult) -> list[str]:
    warnings: list[str] = []
    shares = base.counts["first_attempts_failed"], other.counts["first_attempts_failed"]
    if any(shares):
        both = f"{shares[0]:,} of {base.counts['episodes']:,} and {shares[1]:,} of {other.counts['episodes']:,}"
        warnings.append(f"First attempts that failed: {both}.")
    versions = base.about.get("server_version"), other.about.get("server_version")
    if all(versions) and versions[0] != versions[1]:
        warnings.append(f"The server versions differ: {versions[0]} and {versions[1]}.")
    return warnings
