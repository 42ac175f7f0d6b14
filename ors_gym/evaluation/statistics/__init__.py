"""Statistics of an evaluation: estimates over tasks, and comparisons by task."""

from ors_gym.evaluation.statistics.estimates import (
    Estimate,
    Interval,
    clustered_wilson,
    mean_estimate,
    mean_return,
    pass_at,
    pass_hat,
    rate_estimate,
    standard_error,
    success_rate,
)
from ors_gym.evaluation.statistics.paired import (
    detectable_difference,
    holm,
    mcnemar,
    sign_flip_p,
    t_test_p,
    tasks_needed,
    within_margin,
)
from ors_gym.evaluation.statistics.populations import of_the_split, stratified
from ors_gym.evaluation.statistics.scores import TaskScores, all_zero_or_one, largest_return

__all__ = [
    "Estimate",
    "Interval",
    "TaskScores",
    "all_zero_or_one",
    "clustered_wilson",
    "detectable_difference",
    "holm",
    "largest_return",
    "mcnemar",
    "mean_estimate",
    "mean_return",
    "of_the_split",
    "pass_at",
    "pass_hat",
    "rate_estimate",
    "sign_flip_p",
    "standard_error",
    "stratified",
    "success_rate",
    "t_test_p",
    "tasks_needed",
    "within_margin",
]
