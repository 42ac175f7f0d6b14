"""The statistics of evaluations against known values (vectors.json), SciPy and statsmodels."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from ors_gym.evaluation.statistics import (
    Estimate,
    TaskScores,
    clustered_wilson,
    detectable_difference,
    holm,
    mcnemar,
    mean_return,
    of_the_split,
    pass_at,
    pass_hat,
    sign_flip_p,
    standard_error,
    stratified,
    success_rate,
    t_test_p,
    tasks_needed,
    within_margin,
)
from ors_gym.evaluation.statistics.distributions import t_quantile

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("vectors.json").read_text())
ALONE = VECTORS["expected"]["stand_alone"]


def near(value: Any) -> Any:
    return pytest.approx(value, abs=1e-6)


def scores_of(name: str, *, by_field: bool = False) -> list[TaskScores]:
    def of(task: str, episodes: list[Any]) -> TaskScores:
        scored = [episode for episode in episodes if episode != "failed"]
        return TaskScores(
            task,
            tuple(0.0 if value is None else float(value) for value in scored),
            unrewarded=scored.count(None),
            failed=episodes.count("failed"),
            cluster=VECTORS["field"][task] if by_field else None,
        )

    return [of(task, episodes) for task, episodes in VECTORS["runs"][name].items()]


def solved(scores: list[TaskScores]) -> list[TaskScores]:
    return [task.as_successes(1.0) for task in scores]


@pytest.fixture(params=["A", "B"])
def run(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param, VECTORS["expected"][request.param]


class TestEstimatesOfOneModel:
    def test_episodes_are_counted_by_what_became_of_them(self, run: tuple[str, dict[str, Any]]) -> None:
        name, expected = run
        scores = scores_of(name)
        assert {
            "episodes": sum(task.episodes for task in scores),
            "scored": sum(task.scored - task.unrewarded for task in scores),
            "unrewarded": sum(task.unrewarded for task in scores),
            "failed": sum(task.failed for task in scores),
            "tasks": len(scores),
        } == expected["counts"]

    def test_the_mean_return_has_a_t_interval_over_tasks(self, run: tuple[str, dict[str, Any]]) -> None:
        name, expected = run
        self.check(mean_return(scores_of(name)), expected["mean_return"], "t_interval")

    def test_the_success_rate_has_a_clustered_wilson_interval(self, run: tuple[str, dict[str, Any]]) -> None:
        name, expected = run
        self.check(success_rate(scores_of(name)), expected["success_rate"], "clustered_wilson")

    @pytest.mark.parametrize("worth", [0, 1])
    def test_failed_episodes_can_be_counted_as_unsolved_or_as_solved(
        self, run: tuple[str, dict[str, Any]], worth: int
    ) -> None:
        name, expected = run
        scores = [task.with_failed_as(float(worth)) for task in solved(scores_of(name))]
        self.check(success_rate(scores), expected[f"success_rate_failed_as_{worth}"], "clustered_wilson")
        if worth == 0:
            scores = [task.with_failed_as(0.0) for task in scores_of(name)]
            self.check(mean_return(scores), expected["mean_return_failed_as_0"], "t_interval")

    @staticmethod
    def check(estimate: Estimate, expected: dict[str, Any], interval: str) -> None:
        assert (estimate.value, estimate.se, estimate.df) == near((expected["value"], expected["se"], expected["df"]))
        assert estimate.interval == near(tuple(expected[interval]))
        assert (estimate.tasks, estimate.episodes) == (expected["tasks"], expected["episodes"])

    @pytest.mark.parametrize("k", [1, 2, 3, 4])
    @pytest.mark.parametrize(("kind", "estimator"), [("pass@", pass_at), ("pass^", pass_hat)])
    def test_pass_at_and_pass_hat_are_over_tasks_with_enough_episodes(
        self, run: tuple[str, dict[str, Any]], kind: str, estimator: Any, k: int
    ) -> None:
        name, everything = run
        expected, estimate = everything[f"{kind}{k}"], estimator(scores_of(name), k)
        assert (estimate.value, estimate.se) == near((expected["value"], expected["se"]))
        assert (estimate.tasks, estimate.tasks_left_out) == (expected["tasks"], expected["tasks_left_out"])
        assert estimate.interval == near(tuple(expected["clustered_wilson"]))

    @pytest.mark.parametrize(("metric", "estimator"), [("mean_return", mean_return), ("success_rate", success_rate)])
    def test_errors_are_clustered_by_a_field_of_the_task(
        self, run: tuple[str, dict[str, Any]], metric: str, estimator: Any
    ) -> None:
        name, everything = run
        expected, estimate = everything[metric], estimator(scores_of(name, by_field=True))
        clustered = expected["clustered_by_field"]
        assert (estimate.se, estimate.df) == near((clustered["cr2"], clustered["df_satterthwaite"]))
        half = t_quantile(0.975, estimate.df) * estimate.se
        assert [estimate.value - half, estimate.value + half] == near(clustered["interval"])
        assert estimate.interval is None, "two groups cannot give an interval"
        assert estimate.notes == ("2 groups: no interval",)
        assert estimate.groups == near({name: group["value"] for name, group in expected["by_field"].items()})

    @pytest.mark.parametrize("metric", ["mean_return", "success_rate"])
    def test_episodes_clustered_by_task_have_the_cr2_error(self, run: tuple[str, dict[str, Any]], metric: str) -> None:
        name, everything = run
        scores = scores_of(name) if metric == "mean_return" else solved(scores_of(name))
        values = [value for task in scores for value in task.returns]
        clusters = [task.task for task in scores for _ in task.returns]
        expected = everything[metric]["pooled_episodes"]
        assert standard_error(values, clusters) == near((expected["cr2"], expected["df_satterthwaite"]))


class TestWhatCannotBeGiven:
    def test_one_task_has_no_error(self) -> None:
        for estimate in (mean_return([TaskScores("t", (1.0, 0.0))]), success_rate([TaskScores("t", (1.0, 0.0))])):
            assert estimate.value == 0.5
            assert (estimate.se, estimate.interval) == (None, None)
            assert estimate.notes == ("one task: no error can be given",)

    def test_a_run_without_a_scored_episode_has_no_value(self) -> None:
        estimate = success_rate([TaskScores("t", failed=3)])
        assert (estimate.value, estimate.notes, estimate.tasks_left_out) == (None, ("no scored episode",), 1)

    def test_equal_returns_have_no_t_interval(self) -> None:
        estimate = mean_return([TaskScores(str(place), (0.1, 0.1, 0.1)) for place in range(40)])
        assert (estimate.interval, estimate.notes) == (None, ("all 40 tasks equal",))

    @pytest.mark.parametrize("row", ALONE["clustered_wilson_degenerate"], ids=lambda row: row["successes"])
    def test_a_rate_at_an_end_has_an_interval_of_as_many_trials_as_tasks(self, row: dict[str, Any]) -> None:
        value = float(row["successes"] == "all")
        scores = [TaskScores(str(task), (value,) * row["epochs"]) for task in range(row["tasks"])]
        assert success_rate(scores).interval == near(tuple(row["interval"]))

    def test_few_or_skewed_returns_are_marked_rough(self) -> None:
        few = mean_return([TaskScores(str(task), (task / 10,)) for task in range(10)])
        skewed = mean_return([TaskScores(str(task), (float(task == 0) * 100,)) for task in range(40)])
        even = mean_return([TaskScores(str(task), (task / 40,)) for task in range(40)])
        assert "rough" in few.notes[0]
        assert "median 0" in skewed.notes[0]
        assert not even.notes

    def test_pass_at_k_beyond_the_epochs_of_most_tasks_has_a_note(self) -> None:
        scores = [TaskScores("a", (1.0, 0.0)), TaskScores("b", (1.0,))]
        assert pass_at(scores, 2).notes[-1] == "1 of 2 tasks have fewer than 2 scored episodes"


class TestAgainstOtherLibraries:
    @pytest.mark.parametrize("row", ALONE["wilson"], ids=lambda row: f"{row['successes']} of {row['n']}")
    def test_wilson(self, row: dict[str, Any]) -> None:
        assert proportion_confint(row["successes"], row["n"], method="wilson") == near(tuple(row["interval"]))
        rate = row["successes"] / row["n"]
        huge = 1e12  # degrees of freedom: a normal quantile
        se = math.sqrt(rate * (1 - rate) / row["n"])
        interval, _ = clustered_wilson(rate, se, huge, most=row["n"], clusters=row["n"])
        assert interval == near(tuple(row["interval"]))

    @settings(deadline=None)
    @given(st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=2, max_size=8))
    def test_the_clustered_error_of_equal_groups_is_that_of_statsmodels(self, groups: list[list[float]]) -> None:
        values = [value for group in groups for value in group]
        clusters = [place for place, group in enumerate(groups) for _ in group]
        error, df = standard_error(values, clusters)
        fitted = OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters})
        assert error == pytest.approx(fitted.bse[0], rel=1e-6, abs=1e-7)
        assert df == pytest.approx(len(groups) - 1)

    @settings(deadline=None)
    @given(st.lists(st.floats(-10, 10), min_size=3, max_size=20))
    def test_the_error_of_a_mean_and_its_test_are_those_of_scipy(self, values: list[float]) -> None:
        error, df = standard_error(values)
        assert error is not None
        assert error == pytest.approx(stats.sem(values), rel=1e-9, abs=1e-12)
        if error > 1e-6:
            expected = stats.ttest_1samp(values, 0.0)
            assert t_test_p(math.fsum(values) / len(values), error, df) == pytest.approx(expected.pvalue, abs=1e-9)

    @settings(deadline=None)
    @given(st.integers(0, 60), st.integers(0, 60))
    def test_mcnemar(self, first: int, second: int) -> None:
        exact, mid = mcnemar(first, second)
        assert exact == pytest.approx(statsmodels_mcnemar([[0, first], [second, 0]], exact=True).pvalue)
        assert mid <= exact

    def test_holm(self) -> None:
        draw = np.random.default_rng(0)
        for count in range(1, 13):
            p_values = draw.random(count) ** 3
            assert holm(list(p_values)) == pytest.approx(list(multipletests(p_values, method="holm")[1]))

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=10))
    def test_sign_flips(self, differences: list[float]) -> None:
        expected = stats.permutation_test(
            (np.asarray(differences),), np.sum, permutation_type="samples", n_resamples=np.inf
        ).pvalue
        for exact in (sign_flip_p(differences), sign_flip_p([Fraction(value) for value in differences])):
            assert exact == (pytest.approx(min(1.0, expected)), "exact")

    @pytest.mark.parametrize("row", ALONE["power"], ids=lambda row: f"{row['difference']}")
    def test_tasks_needed(self, row: dict[str, Any]) -> None:
        effect = row["difference"] / row["sd_of_task_differences"]
        number = tasks_needed(row["difference"], row["sd_of_task_differences"])
        assert number == row["tasks_t"] == math.ceil(TTestPower().solve_power(effect, alpha=0.05, power=0.8))


class TestStandAloneVectors:
    @pytest.mark.parametrize("row", ALONE["mcnemar"], ids=lambda row: f"{row['only_A']} and {row['only_B']}")
    def test_mcnemar(self, row: dict[str, Any]) -> None:
        assert mcnemar(row["only_A"], row["only_B"]) == near((row["exact"], row["mid_p"]))

    @pytest.mark.parametrize("row", ALONE["pass"], ids=lambda row: f"{row['c']} of {row['n']}")
    def test_pass(self, row: dict[str, Any]) -> None:
        returns = (1.0,) * row["c"] + (0.0,) * (row["n"] - row["c"])
        for k in range(1, 5):
            for name, estimator in (("pass@", pass_at), ("pass^", pass_hat)):
                assert estimator([TaskScores("t", returns)], k).value == near(row[f"{name}{k}"])

    @pytest.mark.parametrize("name", ["holm", "holm_ties"])
    def test_holm(self, name: str) -> None:
        assert holm(ALONE[name]["p"]) == near(ALONE[name]["adjusted"])

    @pytest.mark.parametrize("row", ALONE["sign_flip"], ids=lambda row: str(row["p"]))
    def test_sign_flips(self, row: dict[str, Any]) -> None:
        assert sign_flip_p(row["differences"])[0] == near(row["p"])
        assert sign_flip_p([Fraction(value) for value in row["differences"]])[0] == near(row["p"])

    def test_sign_flips_of_many_returns_are_drawn_with_a_seed(self) -> None:
        differences = [((7 * place) % 13 - 5) / 10 + math.pi / 100 for place in range(40)]
        drawn = sign_flip_p(differences, seed=3)
        assert drawn == sign_flip_p(differences, seed=3)
        assert drawn[1] == "99,999 draws"
        _, p = stats.ttest_1samp(differences, 0.0)
        assert drawn[0] == pytest.approx(p, abs=0.02)

    def test_sign_flips_of_a_thousand_tasks_are_exact(self) -> None:
        differences = [Fraction(place % 5 - 2, 4) for place in range(1000)] + [Fraction(1, 3)] * 9
        assert sign_flip_p(differences)[1] == "exact"

    def test_stratified(self) -> None:
        expected = ALONE["stratified"]
        estimate = stratified(expected["values"], expected["stratum_sizes"])
        assert (estimate.value, estimate.se, estimate.df) == near((expected["value"], expected["se"], expected["df"]))
        assert estimate.interval == near(tuple(expected["interval"]))

    def test_a_stratum_with_one_task_joins_its_neighbour(self) -> None:
        sizes = {"a": 50, "b": 10, "c": 40}
        joined = stratified({"a": [1.0, 0.0, 1.0], "b": [1.0], "c": [0.0, 0.5]}, sizes)
        together = stratified({"a": [1.0, 0.0, 1.0], "bc": [1.0, 0.0, 0.5]}, {"a": 50, "bc": 50})
        assert (joined.value, joined.se, joined.df) == near((together.value, together.se, together.df))

    def test_the_split_as_the_population(self) -> None:
        expected = ALONE["finite_population"]
        scores = [TaskScores(str(place), tuple(row)) for place, row in enumerate(expected["rows"])]
        plain = mean_return(scores)
        assert (plain.value, plain.se) == near((expected["value"], expected["se_tasks_as_sample"]))
        part = of_the_split(plain, scores, expected["tasks_in_split"])
        assert part.se == near(expected["se_split_as_population"])
        whole = of_the_split(plain, scores, len(scores))
        assert whole.se == near(expected["se_all_tasks_played"])

    def test_one_epoch_gives_no_error_for_the_split(self) -> None:
        scores = [TaskScores(str(place), (float(place % 2),)) for place in range(10)]
        estimate = of_the_split(success_rate(scores), scores, 10, rate=True)
        assert (estimate.se, estimate.interval) == (None, None)
        assert "one epoch" in estimate.notes[0]

    def test_a_task_with_a_single_scored_episode_does_not_take_the_error_of_the_split_away(self) -> None:
        whole = [TaskScores(str(place), (1.0, 0.0)) for place in range(10)]
        part = [*whole[:9], TaskScores("9", (1.0,), failed=1)]
        for scores, within in ((whole, 0.5 / 2), (part, 0.5 * (9 / 2 + 1) / 10)):
            estimate = of_the_split(mean_return(scores), scores, 10)
            assert estimate.se == near(math.sqrt(within / 10))

    def test_detectable_difference(self) -> None:
        expected = ALONE["detectable"]
        assert detectable_difference(expected["se"], expected["df"]) == near(expected["difference"])

    def test_equal_within_a_margin_needs_the_90_percent_interval_inside(self) -> None:
        assert within_margin(0.0, 0.01, 100, 0.02) is True
        assert within_margin(0.01, 0.01, 100, 0.02) is False
        assert within_margin(0.0, None, None, 0.02) is None


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4), min_size=1, max_size=12))
def test_pass_1_is_the_success_rate(tasks: list[list[float]]) -> None:
    scores = [TaskScores(str(place), tuple(returns)) for place, returns in enumerate(tasks)]
    assert pass_at(scores, 1).to_json() == pass_hat(scores, 1).to_json()
    assert pass_at(scores, 1).value == pytest.approx(success_rate(scores).value)


def beta_binomial(draw: np.random.Generator, mean: float, tasks: int, epochs: int) -> Iterator[TaskScores]:
    for task, rate in enumerate(draw.beta(mean * 2, (1 - mean) * 2, tasks)):
        yield TaskScores(str(task), tuple(map(float, draw.random(epochs) < rate)))


@pytest.mark.parametrize(("mean", "tasks", "epochs"), [(0.1, 10, 1), (0.5, 30, 4), (0.8, 30, 2)])
def test_the_interval_of_a_success_rate_covers_the_truth(mean: float, tasks: int, epochs: int) -> None:
    draw = np.random.default_rng(1)
    runs = [success_rate(list(beta_binomial(draw, mean, tasks, epochs))).interval for _ in range(1000)]
    assert sum(low <= mean <= high for low, high in filter(None, runs)) >= 925
