"""The user's reward functions, called in addition to the episodes' returns."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from ors_gym.policies.templates import to_chat_template
from ors_gym.trajectory import Trajectory

__all__ = ["ScoredRows", "own_reward"]


class ScoredRows:
    """Which rows of the latest rollout are scored."""

    def __init__(self) -> None:
        self.scored: list[bool] = []
        self._hooks: list[Any] = []

    def watch(self, model: torch.nn.Module) -> None:
        """Let a reward model give no reward to the other rows."""
        self._hooks.append(model.register_forward_hook(self._leave_out))

    def close(self) -> None:
        """Stop observing models."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _leave_out(self, model: torch.nn.Module, inputs: Any, output: Any) -> None:
        output.logits[[not scored for scored in self.scored]] = torch.nan


def own_reward(function: Callable[..., Any], rows: ScoredRows) -> Callable[..., Any]:
    """``function`` limited to the scored rows, with each episode's conversation.

    A failed row has no return, and TRL would include it in the baseline once any function rewards it. So it is left out
    of the call and its reward is None. For the other rows the function gets ``prompts`` and ``completions`` as
    conversations (assistant turns, tool results with their role), and ``env_mask`` beside ``completion_ids``. Where
    another task was played than the row's, it gets that task's fields.
    """
    if isinstance(function, torch.nn.Module):
        rows.watch(function)
        return function

    def arguments(columns: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
        scored: list[bool] = columns.pop("ors_scored", None) or [True] * len(columns["prompts"])
        columns["env_mask"] = columns.pop("ors_mask", None)
        for place, fields in enumerate(columns.pop("ors_fields", None) or []):
            for name in (fields or {}).keys() & columns.keys():
                columns[name] = [*columns[name][:place], fields[name], *columns[name][place + 1 :]]
        trajectories: Sequence[Trajectory] = columns.get("ors_trajectory") or []
        if trajectories:
            columns["completions"] = [to_chat_template(one.completion) for one in trajectories]
            columns["prompts"] = [to_chat_template(one.prompt) for one in trajectories]
        places = [place for place, kept in enumerate(scored) if kept]
        count = len(scored)
        asked = {
            name: [value[place] for place in places] if isinstance(value, list) and len(value) == count else value
            for name, value in columns.items()
        }
        if columns.get("log_extra") is not None:
            asked["log_extra"] = functools.partial(_log_spread, columns["log_extra"], places, count)
        return places, asked

    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):

        @functools.wraps(function)
        async def reward_later(**columns: Any) -> list[Any]:
            count = len(columns["prompts"])
            places, asked = arguments(columns)
            return spread(places, list(await function(**asked)) if places else [], count)

        cast("Any", reward_later).ors_rows = rows
        return reward_later

    @functools.wraps(function)
    def reward(**columns: Any) -> list[Any]:
        count = len(columns["prompts"])
        places, asked = arguments(columns)
        return spread(places, list(function(**asked)) if places else [], count)

    cast("Any", reward).ors_rows = rows
    return reward


def _log_spread(
    log_extra: Callable[[str, list[Any]], None], places: Sequence[int], count: int, column: str, values: Sequence[Any]
) -> None:
    log_extra(column, spread(places, values, count))


def spread(places: Sequence[int], values: Sequence[Any], count: int) -> list[Any]:
    """``values`` at their ``places`` among ``count``, None elsewhere; unchanged if their number does not match."""
    if len(values) != len(places):
        return list(values)
    row: list[Any] = [None] * count
    for place, value in zip(places, values, strict=True):
        row[place] = value
    return row
