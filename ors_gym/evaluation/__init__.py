"""Evaluation of models on ORS environments, with sound errors and comparisons (extra ``eval``)."""

from ors_gym.evaluation.comparison import Comparison, Flip, Verdict, compare_results
from ors_gym.evaluation.results import Gate, ModelResult, TaskSample
from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.statistics import Estimate, TaskScores

__all__ = [
    "Comparison",
    "Estimate",
    "Flip",
    "Gate",
    "ModelResult",
    "Rules",
    "TaskSample",
    "TaskScores",
    "Verdict",
    "compare_results",
]
