"""Comparisons of two models, and the sentences that say results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from ors_gym.evaluation import ModelResult, Rules, TaskSample, TaskScores, Verdict, compare_results

EXPECTED = json.loads(Path(__file__).with_name("vectors.json").read_text())
near = pytest.approx


def result(name: str, returns: Mapping[str, Sequence[Any]] | Sequence[Sequence[Any]], **options: Any) -> ModelResult:
    """A model's result: ``"failed"`` is a failed episode, None one without a reward."""
    rows = returns if isinstance(returns, Mapping) else {f"t{place}": row for place, row in enumerate(returns)}
    first = options.pop("first_attempts_failed", 0)
    scores = tuple(
        TaskScores(
            task,
            tuple(float(value or 0.0) for value in row if value != "failed"),
            unrewarded=list(row).count(None),
            failed=list(row).count("failed"),
            first_attempts_failed=first if place == 0 else 0,
        )
        for place, (task, row) in enumerate(rows.items())
    )
    return ModelResult(name, scores, **options)


def lenient(metric: Any = "success", **options: Any) -> Rules:
    return Rules(metric=metric, max_failed=1.0, **options)


@pytest.mark.parametrize("metric", ["mean_return", "success_rate"])
def test_the_difference_by_task_is_that_of_the_vectors(metric: str) -> None:
    rules = lenient("return" if metric == "mean_return" else "success")
    a, b = (result(name, EXPECTED["runs"][name], rules=rules) for name in "AB")
    (comparison,) = compare_results(a, [b])
    expected = EXPECTED["expected"]["B_minus_A"][metric]
    difference = comparison.difference
    assert (difference.value, difference.se, difference.df) == near(
        (expected["difference"], expected["se"], expected["df"]), abs=1e-6
    )
    assert difference.interval == near(tuple(expected["t_interval"]), abs=1e-6)
    assert comparison.p == near(expected["t_p"], abs=1e-6)
    assert [test.p for test in comparison.tests] == near([expected["sign_flip_p_exact"]], abs=1e-6)
    assert [comparison.better, comparison.equal, comparison.worse] == expected["wins_ties_losses"]
    assert list(comparison.unscored) == expected["tasks_left_out"]
    if metric == "success_rate":
        assert comparison.bounds == near(tuple(EXPECTED["expected"]["B_minus_A"]["success_rate_bounds"]))


def test_one_epoch_has_mcnemars_tests_in_addition_to_the_verdict() -> None:
    a, b = (
        result(name, {task: row[:1] for task, row in EXPECTED["runs"][name].items()}, rules=lenient()) for name in "AB"
    )
    (comparison,) = compare_results(a, [b])
    expected = EXPECTED["expected"]["B_minus_A"]["mcnemar_epoch_0"]
    assert {test.name: test.p for test in comparison.tests} == {
        "McNemar mid-p": near(expected["mid_p"]),
        "McNemar exact": near(expected["exact"]),
    }


def test_the_verdict_is_the_paired_interval_and_its_test_is_scipys() -> None:
    base = [[float(place % 3 == 0)] * 4 for place in range(60)]
    other = [[1.0] * 4 if place % 3 or place % 2 else row for place, row in enumerate(base)]
    (comparison,) = compare_results(result("A", base), [result("B", other)])
    expected = stats.ttest_rel([row[0] for row in other], [row[0] for row in base])
    assert comparison.p == near(expected.pvalue)
    assert comparison.difference.interval == near(tuple(expected.confidence_interval()))
    assert comparison.verdict is Verdict.BETTER
    assert comparison.sentence().startswith("B is better than A: +66.7 points (95 % interval +54")
    assert "p < 0.001; 60 tasks × 4 epochs). Better on 40 tasks, worse on 0, equal on 20." in comparison.sentence()
    (other_way,) = compare_results(result("B", other), [result("A", base)])
    assert other_way.verdict is Verdict.WORSE


def test_fewer_than_six_tasks_that_differ_give_no_verdict() -> None:
    base = [[float(place < 6)] for place in range(12)]
    other = [[1.0 - row[0]] if place in (0, 8, 9, 10) else row for place, row in enumerate(base)]
    (comparison,) = compare_results(result("A", base), [result("B", other)])
    assert comparison.verdict is Verdict.TOO_FEW
    said = "Too few to tell: A and B differ on 4 of 12 tasks; at least 6 are needed. Observed: +16.7 points."
    assert comparison.sentence().startswith(said)


def test_two_equal_models_are_never_called_equal() -> None:
    same = [[float(place % 2)] for place in range(40)]
    (comparison,) = compare_results(result("A", same), [result("B", same)])
    assert "no task of 40 differs" in comparison.sentence()
    assert comparison.verdict is Verdict.TOO_FEW


def test_not_distinguishable_names_the_difference_that_would_have_been_seen() -> None:
    base = [[float(place % 2)] for place in range(40)]
    other = [[1.0 - row[0]] if place % 4 < 2 else row for place, row in enumerate(base)]
    (comparison,) = compare_results(result("A", base), [result("B", other)])
    assert comparison.verdict is Verdict.NOT_DISTINGUISHABLE
    sentence = comparison.sentence()
    assert sentence.startswith("Not distinguishable: B solves 0.0 points more than A (95 % interval -22.9 to +22.9")
    assert "A difference of 32.5 points would usually be detected; smaller ones may exist." in sentence


def test_a_margin_can_show_that_two_models_are_equal_within_it() -> None:
    base = [[float((place + epoch) % 2) for epoch in range(4)] for place in range(100)]
    other = [list(reversed(row)) if place < 10 else row for place, row in enumerate(base)]
    other[0] = [1.0, 1.0, 1.0, 0.0]
    rules = Rules(margin=0.1)
    (comparison,) = compare_results(result("A", base, rules=rules), [result("B", other, rules=rules)])
    assert comparison.verdict is Verdict.WITHIN_MARGIN
    assert comparison.sentence().startswith("Equal within 10.0 points: +0.2")


def test_several_comparisons_are_adjusted_by_holm() -> None:
    base = [[0.0]] * 40
    others = [result(name, [[float(place < count)] for place in range(40)]) for name, count in [("B", 6), ("C", 20)]]
    weak, strong = compare_results(result("A", base), others)
    assert (weak.adjusted_p, strong.adjusted_p) == (near(max(weak.p or 0, 2 * (strong.p or 0))), near(2 * strong.p))
    assert "Holm over 2 pairs" in strong.sentence()


def test_an_interval_without_zero_gives_no_verdict_if_the_adjusted_p_exceeds_the_limit() -> None:
    base = [[0.0]] * 40
    other = result("B", [[float(place < 6)] for place in range(40)])
    unclear = [result(name, [[float(place % 9 == 0)] for place in range(40)]) for name in "CD"]
    comparison = next(iter(compare_results(result("A", base), [other, *unclear])))
    comparison = replace(comparison, adjusted_p=0.051)
    assert comparison.difference.interval is not None
    assert comparison.difference.interval[0] > 0
    assert comparison.sentence().startswith("Not distinguishable after correction for 3 comparisons:")


def test_too_few_groups_of_tasks_give_no_verdict_however_far_apart_the_models_are() -> None:
    def grouped(name: str, value: float) -> ModelResult:
        tasks = (TaskScores(f"t{place}", (value,), cluster=f"g{place % 4}") for place in range(40))
        return ModelResult(name, (*tasks, TaskScores("t40", (1.0,), cluster="g0")))

    (comparison,) = compare_results(grouped("A", 0.0), [grouped("B", 1.0)])
    assert comparison.verdict is Verdict.TOO_FEW
    assert comparison.p is None
    assert comparison.sentence().startswith("Too few to tell: 4 groups: no interval. Observed: +97.6 points.")


class TestNotComparable:
    BASE = tuple([float(place % 2)] for place in range(100))
    OTHER = tuple([1.0] for _ in range(100))

    def verdict(self, base: ModelResult, other: ModelResult) -> tuple[Verdict, str]:
        (comparison,) = compare_results(base, [other])
        return comparison.verdict, comparison.sentence()

    def test_too_many_failures_in_either(self) -> None:
        broken = [["failed"] if place < 6 else row for place, row in enumerate(self.OTHER)]
        verdict, sentence = self.verdict(result("A", self.BASE), result("B", broken))
        assert verdict is Verdict.NOT_COMPARABLE
        assert "6 of 100 episodes of B failed (6 %, limit 5 %)" in sentence

    def test_first_attempts_that_failed_much_more_often_in_one(self) -> None:
        other = result("B", self.OTHER, first_attempts_failed=6)
        verdict, sentence = self.verdict(result("A", self.BASE), other)
        assert verdict is Verdict.NOT_COMPARABLE
        assert "first attempts failed in 0 % of A and 6 % of B" in sentence

    def test_another_limit_of_turns(self) -> None:
        verdict, sentence = self.verdict(
            result("A", self.BASE, about={"max_turns": 8}), result("B", self.OTHER, about={"max_turns": 32})
        )
        assert verdict is Verdict.NOT_COMPARABLE
        assert "max_turns is 8 in A and 32 in B" in sentence

    def test_failures_that_might_turn_the_difference_around(self) -> None:
        base = [[0.0] if place < 60 else [1.0] for place in range(100)]
        other = [[1.0] if 54 <= place < 60 else ["failed"] if place >= 95 else row for place, row in enumerate(base)]
        base = [["failed"] if place in (1, 2, 3, 4, 5) else row for place, row in enumerate(base)]
        (comparison,) = compare_results(result("A", base), [result("B", other)])
        assert comparison.difference.interval is not None
        assert comparison.difference.interval[0] > 0
        assert comparison.bounds == near((-0.04, 0.06))
        assert comparison.verdict is Verdict.NOT_COMPARABLE


def hashed(name: str, rows: Mapping[str, tuple[str, float]]) -> ModelResult:
    """A result of tasks with hashes: the hash and the return by the task's place."""
    scores = (TaskScores(place, (value,), sha256=sha256) for place, (sha256, value) in rows.items())
    return ModelResult(name, tuple(scores))


def test_changed_tasks_are_named_and_left_out() -> None:
    base = {f"t{place}": (f"hash {place}", float(place % 2)) for place in range(20)}
    other = {task: (hash if task not in ("t0", "t1") else "new", 1.0) for task, (hash, _) in base.items()}
    del other["t19"]
    (comparison,) = compare_results(hashed("A", base), [hashed("B", other)])
    assert (comparison.difference.tasks, comparison.changed, comparison.only_base) == (17, ("t0", "t1"), ("t19",))
    said = "2 tasks changed since A and 1 task only in A: left out. On the 17 others: "
    assert comparison.sentence().startswith(said)


def test_tasks_that_moved_in_the_split_are_the_same_by_their_hash() -> None:
    base = {f"t{place}": (f"hash {place}", float(place % 2)) for place in range(12)}
    moved = {f"t{place}": (f"hash {(place + 1) % 12}", float((place + 1) % 2)) for place in range(12)}
    (comparison,) = compare_results(hashed("A", base), [hashed("B", moved)])
    assert (comparison.equal, comparison.changed) == (12, ())


def test_without_hashes_tasks_are_identified_by_index_and_it_is_said() -> None:
    rows = [[float(place % 2)] for place in range(12)]
    (comparison,) = compare_results(result("A", rows), [result("B", rows)])
    assert "Tasks are identified by their index" in comparison.sentence()


class TestSentences:
    def test_a_result_says_every_number_that_belongs_to_it(self) -> None:
        rows: list[list[Any]] = [[1.0, 1.0, 0.0, 1.0] if place % 4 else [0.0, 0.0, 0.0, None] for place in range(200)]
        assert result("m", rows).sentence() == (
            "m solves 56 % of tasks like these (95 % interval 52 to 61 %; 200 tasks × 4 epochs, 800 scored, "
            "50 of them without reward, scored as 0; 0 failed)."
        )

    def test_too_many_failures_are_bounded(self) -> None:
        rows = [["failed"] if place < 12 else [float(place % 3 > 0)] for place in range(100)]
        sentence = result("m", rows).sentence()
        start = "m: not comparable: 12 of 100 episodes failed (12 %, limit 5 %). Scored episodes only: 66 %; "
        assert sentence.startswith(start)
        assert "with failures as unsolved 58 %, as solved 70 %; interval covering both 48 to 78 %." in sentence

    def test_failed_first_attempts_are_reported_although_retries_completed_them(self) -> None:
        sentence = result("m", [[1.0]] * 50 + [[0.0]] * 50, first_attempts_failed=18).sentence()
        assert sentence.endswith("First attempts that failed: 18 of 100: the value may favor short episodes.")

    def test_no_return_reaching_the_threshold_names_the_largest(self) -> None:
        assert "The largest return is 0.83; success counts from 1" in result("m", [[0.83], [0.5]] * 10).sentence()

    def test_no_scored_episode_is_not_zero(self) -> None:
        assert result("m", [["failed"]] * 3).sentence() == "m: no scored episode (3 episodes failed)."

    def test_one_task_has_no_error(self) -> None:
        played = result("m", [[1.0, 0.0]])
        assert "one task: no error can be given" in played.sentence()
        assert played.to_json()["success_rate"]["se"] is None

    def test_returns_of_zero_and_one_show_the_interval_of_the_success_rate(self) -> None:
        played = result("m", [[float(place % 2)] for place in range(40)])
        assert played.mean_return == played.success
        assert result("m", [[place % 3 / 2] for place in range(40)]).mean_return.method == "t"

    @pytest.mark.parametrize(
        ("solved", "met", "words"), [(90, True, "Gate met"), (65, False, "Gate not shown"), (30, False, "Gate missed")]
    )
    def test_a_gate_is_judged_at_the_lower_end(self, solved: int, met: bool, words: str) -> None:
        gate = result("m", [[float(place < solved)] for place in range(100)]).gate(0.6)
        assert gate.met is met
        assert gate.sentence.startswith(words)


def test_a_stratified_sample_is_weighted_by_the_strata() -> None:
    rows = {f"easy{place}": [1.0] for place in range(10)} | {f"hard{place}": [place % 2] for place in range(10)}
    sample = TaskSample(100, {task: task[:4] for task in rows}, {"easy": 90, "hard": 10})
    estimate = result("m", rows, sample=sample).success
    assert estimate.value == near(0.9 + 0.1 * 0.5)
    assert estimate.method == "stratified, clustered Wilson"


def test_everything_is_json() -> None:
    a, b = (result(name, EXPECTED["runs"][name], rules=lenient()) for name in "AB")
    (comparison,) = compare_results(a, [b])
    written = json.loads(json.dumps([a.to_json(), comparison.to_json()], allow_nan=False))
    assert written[0]["passes"]["pass@4"]["tasks"] == 5
    assert written[1]["verdict"] == "too few"
