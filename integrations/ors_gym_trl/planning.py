"""Which groups a batch begins, from the tasks of the rows that the trainer hands to a rollout function."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from ors_gym.rollouts.seeds import derive_seed
from ors_gym.trajectory import TaskRef
from ors_gym_trl import compat, hooks
from ors_gym_trl.carrying import CarriedGroups
from ors_gym_trl.compat import Trainer
from ors_gym_trl.dataset import read_prompt
from ors_gym_trl.environment import OpenSource
from ors_gym_trl.play import PlannedGroup
from ors_gym_trl.policy import Submit, TokenPolicy
from ors_gym_trl.tokens.conversation import ChatTokenizer

__all__ = ["Planner"]

Prompt: TypeAlias = tuple[str, TaskRef, str | None]
"""A row as :func:`~ors_gym_trl.dataset.read_prompt` reads it: the source's name, the task, the system message."""


class Planner:
    """Plans the batches of one training.

    Args:
        sources: The environments, by name.
        tokenizers: The conversation's template of each.
    """

    def __init__(self, sources: Mapping[str, OpenSource], tokenizers: Mapping[str, ChatTokenizer]) -> None:
        self._sources = sources
        self._tokenizers = tokenizers
        self._dialects = {name: opened.dialect(tokenizers[name]) for name, opened in sources.items()}
        self._batches_of_step = (-1, True, 0)
        self.hands_over = False
        """Whether rows of the latest batch were played by another process than the one that they are of."""
        self.end_of_sequence = next(iter(tokenizers.values())).eos_token_id

    def plan(
        self,
        tasks: Sequence[Prompt],
        trainer: Trainer,
        submit: Submit,
        carried: CarriedGroups | None,
        *,
        training: bool,
    ) -> list[PlannedGroup]:
        """The groups, or parts of groups, among the tasks of the rows. Their borders are counted over all processes.

        Where something needs groups whole, one that has rows in several processes is played by the first of them. With
        ``carried``, groups without a place follow: as many as are missing in play.
        """
        size = compat.group_size(trainer, training=training)
        reasons = [reason for opened in self._sources.values() if (reason := opened.source.needs_whole_groups)]
        if carried is not None:
            hooks.check_carrying(trainer, carried.count, len(tasks) // size)
            hooks.at_end_of_training(trainer, carried.close)
            reasons.append(f"carried_groups={carried.count}")
            submit = carried.submit
        self.hands_over = compat.groups_straddle(next(iter(reasons), None), trainer, len(tasks), size)
        first = compat.rank(trainer) * len(tasks)
        seed = derive_seed(compat.seed(trainer), *self._place_of_batch(compat.step(trainer), training))
        plan: list[PlannedGroup] = []
        for group, members in itertools.groupby(range(len(tasks)), key=lambda i: ((first + i) // size, *tasks[i])):
            rows = list(members)
            place = first + rows[0]
            planned = self._planned(trainer, tasks[rows[0]], submit, derive_seed(seed, place))
            if self.hands_over and group[0] * size < first:
                continue
            plan.append(replace(planned, first=place, size=size if self.hands_over else len(rows)))
        if carried is not None:
            plan += self._without_place(trainer, carried, size, derive_seed(seed, "carried", compat.rank(trainer)))
        return plan

    def _without_place(self, trainer: Trainer, carried: CarriedGroups, size: int, seed: int) -> list[PlannedGroup]:
        """Groups of rows that are drawn from the dataset, as many as are missing in play."""
        rows, draw = compat.train_dataset(trainer), random.Random(seed)
        plan: list[PlannedGroup] = []
        for number in range(carried.num_missing):
            prompt = read_prompt(rows[draw.randrange(len(rows))]["prompt"])
            planned = self._planned(trainer, prompt, carried.submit, derive_seed(seed, number))
            plan.append(replace(planned, size=size))
        return plan

    def _planned(self, trainer: Trainer, prompt: Prompt, submit: Submit, seed: int) -> PlannedGroup:
        """A group of the task of a row."""
        name, task, system = prompt
        opened = self._sources.get(name)
        if opened is None:
            raise ValueError(
                f"a prompt of {name!r} reached rollouts of {', '.join(map(repr, self._sources))}: "
                "pass the same ORSRollouts' train_dataset (or eval_dataset) to the trainer"
            )
        source = opened.source
        policy = TokenPolicy(
            self._tokenizers[name],
            self._dialects[name],
            submit,
            max_completion_tokens=compat.max_completion_tokens(trainer),
            max_context_tokens=compat.context_tokens(trainer),
            max_turn_tokens=source.max_turn_tokens,
            system=source.system if system is None else system,
            unseen_images=source.unseen_images,
        )
        return PlannedGroup(opened, task, policy, seed)

    def _place_of_batch(self, step: int, training: bool) -> tuple[int, str, int]:
        """The step of a batch and its number within the step, the same in a resumed run."""
        same = self._batches_of_step[:2] == (step, training)
        number = self._batches_of_step[2] + 1 if same else 0
        self._batches_of_step = (step, training, number)
        return step, "train" if training else "eval", number
