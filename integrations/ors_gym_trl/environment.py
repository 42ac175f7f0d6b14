"""One environment of a training run: its tasks, who plays them, and what an episode is worth."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ors_gym.client.portal import Portal
from ors_gym.dialects.actions import ActionParser, action_parser
from ors_gym.rollouts.groups import EpisodeHost, EpisodeRunner, FailurePolicy, RolloutLimits, run_groups
from ors_gym.rollouts.returns import Reduction, trajectory_return
from ors_gym.rollouts.tasks import TaskSampler, load_tasks
from ors_gym.trajectory import TaskRef, Trajectory, TrajectoryGroup
from ors_gym_trl.policy import TokenPolicy

__all__ = ["Source"]


@dataclass(frozen=True, slots=True)
class ReturnSettings:
    """How an episode's rewards become its return."""

    reduction: Reduction
    truncated_reward: float | None
    stopped_reward: float | None

    def of(self, group: TrajectoryGroup, member: Trajectory) -> float | None:
        """A member's return; None where it must not be scored."""
        if group.dropped:
            return None
        return trajectory_return(
            member,
            self.reduction,
            truncated_reward=self.truncated_reward,
            stopped_reward=self.stopped_reward,
        )


class Source:
    """What :class:`~ors_gym_trl.rollouts.ORSRollouts` knows of one environment; its arguments are described there."""

    def __init__(
        self,
        url: str,
        *,
        env_name: str,
        name: str | None,
        split: str,
        eval_split: str | None,
        tasks: Iterable[int | TaskRef] | None,
        max_tasks: int | None,
        limits: RolloutLimits | None,
        failures: FailurePolicy | None,
        worth: ReturnSettings,
        score_group: bool,
        host: EpisodeHost | None,
        parser: str | ActionParser,
        max_turn_tokens: int | None,
        template_options: Mapping[str, Any] | None,
        secrets: Mapping[str, str] | None,
        client_options: Mapping[str, Any] | None,
    ) -> None:
        if host is not None and (limits is not None or secrets is not None):
            raise ValueError("limits and secrets belong to the host that plays the episodes: give them to it")
        self.name = name or env_name
        self.env_name = env_name
        self.split = split
        self.eval_split = eval_split
        self.worth = worth
        self.score_group = score_group
        self.failures = failures or FailurePolicy()
        self.parser = action_parser(parser)
        self.max_turn_tokens = max_turn_tokens
        self.template_options = template_options
        self._url = url
        self._client_options = dict(client_options or {})
        self._limits = limits
        self._secrets = secrets
        self._given_host = host
        self._given = None if tasks is None else [self._task_ref(task) for task in tasks]
        self._max_tasks = max_tasks
        self._train_tasks: Sequence[TaskRef] | None = None
        self._spare_tasks: TaskSampler | None = None
        self.connect(Portal())

    def connect(self, portal: Portal) -> None:
        """Live on ``portal`` from now on."""
        self.portal = portal
        self._client = portal.client(self._url, **self._client_options)
        self._host: EpisodeHost = self._given_host or EpisodeRunner(
            self._client, limits=self._limits, secrets=self._secrets
        )

    @property
    def needs_whole_groups(self) -> str | None:
        """What needs all members of a group in one process, in the words of the argument that asks for it."""
        if self.score_group:
            return "score_group=True"
        if self.failures.redundancy:
            return f"FailurePolicy(redundancy={self.failures.redundancy})"
        if self.failures.incomplete != "keep":
            return f"FailurePolicy(incomplete={self.failures.incomplete!r})"
        if self.failures.min_valid_members > 2:
            return f"FailurePolicy(min_valid_members={self.failures.min_valid_members})"
        return None

    def train_tasks(self) -> Sequence[TaskRef]:
        """The tasks to train on. Raises the client's errors when there is no such server, environment or split."""
        if self._train_tasks is None:
            given = self._given if self._given is not None else self._load(self.split)
            self._train_tasks = given[: self._max_tasks]
            if not self._train_tasks:
                raise ValueError(
                    "there are no tasks to train on: the split is empty, or tasks=[] or max_tasks=0 was given"
                )
        return self._train_tasks

    def eval_tasks(self) -> Sequence[TaskRef]:
        """The tasks to evaluate on; none without an ``eval_split``."""
        return () if self.eval_split is None else self._load(self.eval_split)

    async def play(self, task: TaskRef, size: int, policy: TokenPolicy, *, training: bool) -> list[TrajectoryGroup]:
        """Play a group; the last one returned counts, and any before it were dropped and replaced by it.

        Only training replaces: an evaluation is of the tasks it names.
        """
        failures = self.failures
        following: Iterable[TaskRef] = ()
        if failures.incomplete == "refill":
            if training:
                following = itertools.islice(self._spare(), failures.refills)
            else:
                failures = replace(failures, incomplete="drop")
        return [
            group
            async for group in run_groups(
                self._host,
                itertools.chain([task], following),
                size,
                num_groups=1,
                policy=policy,
                failures=failures,
                score_group=self.score_group,
            )
        ]

    def _spare(self) -> TaskSampler:
        if self._spare_tasks is None:
            self._spare_tasks = TaskSampler(self.train_tasks(), seed=1)
        return self._spare_tasks

    def _task_ref(self, task: int | TaskRef) -> TaskRef:
        return task if isinstance(task, TaskRef) else TaskRef(self.env_name, self.split, task)

    def _load(self, split: str) -> Sequence[TaskRef]:
        return self.portal.run(load_tasks(self._client, self.env_name, split, limit=self._max_tasks))
