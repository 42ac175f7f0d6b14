"""Evaluation of models on ORS environments, with sound errors and comparisons (extra ``eval``)."""

from ors_gym.evaluation.comparison import Comparison, Flip, Verdict
from ors_gym.evaluation.evaluation import Evaluation, compare, score_file
from ors_gym.evaluation.pairing import compare_results
from ors_gym.evaluation.play import Budget, EvaluationRun
from ors_gym.evaluation.results import Gate, ModelResult, TaskSample
from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.run import evaluate, prepare
from ors_gym.evaluation.statistics import Estimate, TaskScores

__all__ = [
    "Budget",
    "Comparison",
    "Estimate",
    "Evaluation",
    "EvaluationRun",
    "Flip",
    "Gate",
    "ModelResult",
    "Rules",
    "TaskSample",
    "TaskScores",
    "Verdict",
    "compare",
    "compare_results",
    "evaluate",
    "prepare",
    "score_file",
]
