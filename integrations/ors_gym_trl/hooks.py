"""Methods of TRL's trainer that are wrapped, where it has no callback: the second module that touches TRL.

They are wrapped on the class, once: a trainer exists and may have drawn its tasks before it asks for episodes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, cast

from trl import GRPOTrainer

from ors_gym_trl import compat
from ors_gym_trl.compat import Trainer

log = logging.getLogger(__name__)

STALE, AT_END = "_ors_gym_stale", "_ors_gym_at_end"
"""Attributes of a trainer."""


def _wrap(name: str, wrapper: Callable[..., Any]) -> None:
    """Call ``wrapper(method, trainer, *arguments)`` in the place of a method of every ``GRPOTrainer``."""
    method = getattr(GRPOTrainer, name)
    if getattr(method, "is_of_ors_gym", False):
        return

    @functools.wraps(method)
    def wrapped(self: GRPOTrainer, *arguments: Any, **named: Any) -> Any:
        return wrapper(method, self, *arguments, **named)

    cast("Any", wrapped).is_of_ors_gym = True
    setattr(GRPOTrainer, name, wrapped)


# ------------------------------------------------------------------- numbers of tasks


def watch_task_counts(is_ours: Callable[[Any], bool]) -> None:
    """Have every ``GRPOTrainer`` refuse a dataset of ours with fewer tasks than a batch has groups.

    TRL would draw no batch from it, play nothing and report success. Other datasets are passed on unchanged.
    """

    def checked(draw: Callable[..., Any], trainer: Any, dataset: Any = None) -> Any:
        given: Any = trainer.train_dataset if dataset is None else dataset
        if is_ours(given):
            _check_task_count(compat.settings(trainer), len(given), compat.group_size(trainer, training=True))
        return draw(trainer, dataset)

    _wrap("_get_train_sampler", checked)


def _check_task_count(args: Any, num_tasks: int, num_generations: int) -> None:
    groups = args.generation_batch_size // num_generations
    if num_tasks < groups:
        raise ValueError(
            f"a batch has {groups} groups of {num_generations} episodes, each of another task, and there are "
            f"{num_tasks} tasks: TRL would train on none. Give more tasks, or a smaller generation_batch_size "
            f"({args.generation_batch_size}: per_device_train_batch_size * steps_per_generation * processes)"
        )
    if num_tasks % groups:
        log.warning(
            "a batch takes %d tasks, and there are %d: %d of them, others each time, are left out of every epoch",
            *(groups, num_tasks, num_tasks % groups),
        )


# ------------------------------------------------------------- groups that are carried over


def watch_trainings() -> None:
    """Have every ``GRPOTrainer`` allow for earlier weights, and end the groups in play with its training."""
    _wrap("_generate_and_score_completions", _score)
    _wrap("train", _train)


def _score(score: Callable[..., dict[str, Any]], trainer: Any, inputs: Any) -> dict[str, Any]:
    output = score(trainer, inputs)
    # With vLLM the trainer corrects for the weights that a token was sampled with. In process it takes them for the
    # current ones, unless it is given the tokens' log-probabilities.
    if vars(trainer).pop(STALE, False) and "importance_sampling_ratio" not in output:
        output["old_per_token_logps"] = output["sampling_per_token_logps"]
    return output


def _train(train: Callable[..., Any], trainer: Any, *arguments: Any, **named: Any) -> Any:
    try:
        return train(trainer, *arguments, **named)
    finally:
        vars(trainer).pop(AT_END, lambda: None)()


def mark_stale(trainer: Trainer) -> None:
    """Say that tokens of the batch that is being played were sampled with earlier weights."""
    vars(trainer)[STALE] = True


def at_end_of_training(trainer: Trainer, close: Callable[[], None]) -> None:
    """Call ``close`` when the trainer's ``train()`` ends, also by an exception."""
    vars(trainer)[AT_END] = close


def check_carrying(trainer: Trainer, num_carried: int, num_places: int) -> None:
    """Refuse what groups cannot be carried over in."""
    if num_carried > num_places:
        raise ValueError(
            f"carried_groups={num_carried}, and a batch has {num_places} whole groups in each process: a group must "
            "find a place before it is too old. Give fewer, or make per_device_train_batch_size * steps_per_generation "
            "larger"
        )
    where, args = compat.backend(trainer), compat.settings(trainer)
    if where not in ("padded", "server"):
        configured = 'vllm_mode="colocate"' if where == "colocate" else "use_transformers_continuous_batching=True"
        raise ValueError(
            f'carried_groups needs sampling in process without {configured}, or use_vllm=True, vllm_mode="server": '
            "elsewhere it was not tried"
        )
    mode: str = args.vllm_importance_sampling_mode
    if where == "server" and (not args.vllm_importance_sampling_correction or mode.startswith("sequence")):
        raise ValueError(
            "carried_groups needs vllm_importance_sampling_correction=True and vllm_importance_sampling_mode="
            f"'token_truncate' (or 'token_mask'): without the correction earlier weights are not allowed for, and with "
            f"{mode!r} long episodes count for nothing"
        )
