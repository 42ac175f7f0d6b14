"""One environment of a training run: its tasks, their rollouts, and the returns of episodes."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from ors_gym.client.address import Address, with_key
from ors_gym.client.arguments import check_number, check_type
from ors_gym.client.portal import Portal
from ors_gym.dialects import Dialect, UnknownDialectError, dialect
from ors_gym.errors import ORSError
from ors_gym.http.url import ServerURL
from ors_gym.rollouts.groups import EpisodeHost, EpisodeRunner, FailurePolicy, RolloutLimits, run_group
from ors_gym.rollouts.options import SESSION_OPTIONS, ToolErrors, session_options_of
from ors_gym.rollouts.returns import Reduction, trajectory_return
from ors_gym.rollouts.seeds import derive_seed
from ors_gym.rollouts.tasks import TaskSampler, describe_tasks, load_tasks
from ors_gym.trajectory import TaskRef, Trajectory, TrajectoryGroup
from ors_gym.types import ToolList
from ors_gym_trl.policy import TokenPolicy, UnseenImages
from ors_gym_trl.rows import ReplacementOrder, Replacements
from ors_gym_trl.tokens.conversation import ChatTokenizer

__all__ = ["OpenSource", "Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """An environment to train on, and how: what :class:`~ors_gym_trl.rollouts.ORSRollouts` takes for each."""

    url: str
    """The ORS server, or ``owner/name[@variant]`` of the hosted catalogue."""
    _: KW_ONLY
    env_name: str = ""
    """The environment's name there; a name of the catalogue needs none."""
    api_key: str | None = field(default=None, repr=False)
    """The server's key; None reads the variable ``ORS_API_KEY`` (see :class:`~ors_gym.ORSClient`)."""
    name: str = ""
    """Its name among several; by default its ``env_name``."""
    split: str = "train"
    """Where the training tasks come from."""
    eval_split: str | None = None
    """Where ``eval_dataset`` comes from; None for no evaluation."""
    tasks: Iterable[int | TaskRef] | None = None
    """Training tasks instead of a whole split: indices of it, or ``TaskRef``."""
    max_tasks: int | None = None
    """At most this many tasks of each split."""
    limits: RolloutLimits | None = None
    """When an episode is cut short. Its tokens are limited by the trainer's ``max_completion_length``."""
    failures: FailurePolicy = field(default_factory=FailurePolicy)
    """The handling of a group on infrastructure failure."""
    reward: Reduction = "sum"
    """How step rewards become an episode's return: ``sum``, ``last``, ``max``, ``min``, ``mean``, a callable."""
    truncated_reward: float | None = None
    """Counts as one more reward of an episode that ran into a limit; None adds nothing."""
    stopped_reward: float | None = None
    """The same for an episode that the model ended with a plain message, without a terminal tool."""
    unrewarded_return: float | None = 0.0
    """The return of an episode that ended without any reward; None leaves it out of its group's baseline."""
    equal_groups: Literal["keep", "replace"] = "keep"
    """What becomes of a training group whose returns are all equal, which has no gradient: it is kept, or another
    task's group is played in its place, again if that is equal too, ``max_replacements`` times at most. What is trained
    on is then no even sample of the tasks any more: see docs/trl.md."""
    max_replacements: int = 2
    """Groups that may be played, one after the other, in the place of an equal one."""
    replacement_order: ReplacementOrder = "shuffled"
    """Which tasks take the place of others: any, or under ``"history"`` first those whose latest group in this training
    had returns that differ, then those that were not played yet. This draws few tasks often: see docs/trl.md."""
    score_group: bool = False
    """Ask the environment to score each group's episodes against each other: a second reward function."""
    host: EpisodeHost | None = None
    """Who plays the episodes, such as an ``ors_gym_ray.RolloutPool``; None plays them in this process. A host has
    ``limits`` and options of the session (``secrets``, ``tools``, ``tool_errors``, …) of its own."""
    parser: str | Dialect = "auto"
    """How the model writes tool calls: by default as its chat template does. The name of a dialect is checked against
    the template before the first step, one of your own is taken as it is (see :mod:`ors_gym.dialects`)."""
    max_turn_tokens: int | None = None
    """Tokens the model may write in one turn; None leaves only ``max_completion_length``."""
    template_options: Mapping[str, Any] | None = None
    """Further variables of the chat template, such as ``enable_thinking``."""
    system: str | None = None
    """A system message before the environment's prompt. One in a dataset row's prompt takes its place."""
    unseen_images: UnseenImages = "stop"
    """What happens where a model of text is shown an image: ``"stop"`` ends the run, ``"skip"`` leaves the task's group
    out, ``"describe"`` says in words that there was one."""
    secrets: Mapping[str, str] | None = field(default=None, repr=False)
    """Passed to each session; never logged, never in a trajectory."""
    toolset: str | None = None
    """The name of a set of tools that the server adds to the environment's."""
    tools: ToolList | None = None
    """The tools, where they are known to be the same for every task: saves one request an episode."""
    parallel_tool_calls: bool | Collection[str] = False
    """Which calls of one message go out at once (see :class:`~ors_gym.EpisodeRunner`)."""
    tool_errors: ToolErrors = "observe"
    """The handling of a tool that raised: the model sees the error, or the episode fails (``"fail"``)."""
    client_options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Further arguments of the :class:`~ors_gym.ORSClient` (``timeouts``, ``headers``, …)."""

    def __post_init__(self) -> None:
        given = [option for option in HOSTS_OWN if getattr(self, option) not in (None, False, "observe")]
        if self.host is not None and given:
            raise ValueError(f"{', '.join(given)} belong to the host that plays the episodes: give them to it")
        self._check_types()
        if self.unseen_images not in ("stop", "skip", "describe"):
            raise ValueError(f"unseen_images must be 'stop', 'skip' or 'describe', not {self.unseen_images!r}")
        if self.equal_groups not in ("keep", "replace"):
            raise ValueError(f"equal_groups must be 'keep' or 'replace', not {self.equal_groups!r}")
        if self.max_replacements < 1:
            raise ValueError("max_replacements must be at least 1")
        if self.replacement_order not in ("shuffled", "history"):
            raise ValueError(f"replacement_order must be 'shuffled' or 'history', not {self.replacement_order!r}")
        if self.replacement_order == "history" and self.equal_groups == "keep":
            raise ValueError("replacement_order='history' needs equal_groups='replace'")
        object.__setattr__(self, "env_name", self.env_name or Address.of(self.url).env_name)
        if not self.env_name:
            raise ValueError("env_name is needed: give the name of one of the server's environments")
        object.__setattr__(self, "name", self.name or self.env_name)
        if self.tasks is not None:
            object.__setattr__(self, "tasks", tuple(self.tasks))

    def _check_types(self) -> None:
        """Refuse fields of a wrong type, without their values in the message."""
        ServerURL.parse(Address.of(self.url).url)
        check_type("api_key", self.api_key, str)
        for name in ("env_name", "name", "split", "unseen_images", "equal_groups", "replacement_order"):
            check_type(name, getattr(self, name), str, none=False)
        for name in ("eval_split", "system"):
            check_type(name, getattr(self, name), str)
        for name in ("max_tasks", "max_turn_tokens"):
            check_number(name, getattr(self, name), whole=True)
        check_number("max_replacements", self.max_replacements, none=False, whole=True)
        for name in ("truncated_reward", "stopped_reward", "unrewarded_return"):
            check_number(name, getattr(self, name))
        tasks: Any = self.tasks
        if isinstance(tasks, str | bytes | Mapping) or not isinstance(tasks, Iterable | None):
            raise ValueError(f"tasks must be indices or TaskRefs, or None, got {type(self.tasks).__name__}")
        check_type("limits", self.limits, RolloutLimits)
        check_type("failures", self.failures, FailurePolicy, none=False)
        check_type("score_group", self.score_group, bool, none=False)
        check_type("template_options", self.template_options, Mapping, what="a mapping")
        check_type("client_options", self.client_options, Mapping, none=False, what="a mapping")
        check_type("parser", self.parser, str, Dialect, none=False, what="a dialect's name, or a Dialect")
        if not callable(self.reward):
            check_type("reward", self.reward, str, none=False, what="a reduction's name, or a callable")
        if self.host is not None and not callable(getattr(self.host, "run_episode", None)):
            raise ValueError(f"host must be an EpisodeHost, or None, got {type(self.host).__name__}")
        session_options_of({name: getattr(self, name) for name in SESSION_OPTIONS})

    def worth(self, group: TrajectoryGroup, member: Trajectory) -> float | None:
        """A member's return; None where it must not be scored."""
        if group.dropped:
            return None
        return trajectory_return(
            member,
            self.reward,
            truncated_reward=self.truncated_reward,
            stopped_reward=self.stopped_reward,
            unrewarded_return=self.unrewarded_return,
        )

    def teaches(self, group: TrajectoryGroup) -> bool:
        """Whether the returns, or the environment's scores, of two members differ."""
        each = [self.worth(group, member) for member in group.members], group.scores or ()
        given = [[value for value in values if value is not None] for values in each]
        return any(len(values) > 1 and min(values) < max(values) for values in given)

    @property
    def plays_other_tasks(self) -> bool:
        """Whether another task's group may take the place of a group."""
        return self.equal_groups == "replace" or self.failures.incomplete == "refill"

    @property
    def needs_whole_groups(self) -> str | None:
        """The argument that requires all members of a group in one process."""
        if self.score_group:
            return "score_group=True"
        if self.equal_groups == "replace":
            return "equal_groups='replace'"
        if self.failures.incomplete != "keep":
            return f"FailurePolicy(incomplete={self.failures.incomplete!r})"
        if self.failures.min_valid_members > 2:
            return f"FailurePolicy(min_valid_members={self.failures.min_valid_members})"
        return None


HOSTS_OWN = ("limits", *SESSION_OPTIONS)
"""The options that belong to a host, where one is given."""


class OpenSource:
    """A source with its client on an event loop: loads its tasks and plays them."""

    def __init__(self, source: Source, portal: Portal) -> None:
        self.source = source
        self._portal = portal
        self._client = portal.client(source.url, **with_key(source.url, source.api_key, source.client_options))
        self._replacements = Replacements((), source.replacement_order)
        self._spare_tasks: Iterable[TaskRef] = ()

    @cached_property
    def host(self) -> EpisodeHost:
        """Who plays the episodes."""
        source = self.source
        return source.host or EpisodeRunner(
            self._client,
            limits=source.limits,
            **session_options_of({name: getattr(source, name) for name in SESSION_OPTIONS}),
        )

    def server_version(self) -> str | None:
        """The server's version; None if it does not report one."""
        with suppress(ORSError):
            return self._portal.run(self._client.version())
        return None

    @cached_property
    def train_tasks(self) -> Sequence[TaskRef]:
        """The tasks to train on. Raises the client's errors if the server, environment or split does not exist."""
        source = self.source
        if source.tasks is None:
            tasks = self._load(source.split)
        else:
            tasks = self._describe(
                [
                    task if isinstance(task, TaskRef) else TaskRef(source.env_name, source.split, task)
                    for task in source.tasks
                ][: source.max_tasks]
            )
        if not tasks:
            raise ValueError("there are no tasks to train on: the split is empty, or tasks=[] or max_tasks=0 was given")
        return tasks

    @cached_property
    def eval_tasks(self) -> Sequence[TaskRef]:
        """The tasks to evaluate on; none without an ``eval_split``."""
        return () if self.source.eval_split is None else self._load(self.source.eval_split)

    def dialect(self, tokenizer: ChatTokenizer) -> Dialect:
        """What reads the model's calls.

        Raises:
            UnknownDialectError: the environment has tools, and what the chat template writes cannot be read.
        """
        parser = self.source.parser
        if isinstance(parser, Dialect):
            return parser
        try:
            return tokenizer.dialect(parser)
        except UnknownDialectError:
            if parser != "auto" or self._has_tools():
                raise
            return dialect("plain")

    def _has_tools(self) -> bool:
        source = self.source
        if source.tools is not None or source.toolset is not None:
            return source.toolset is not None or bool(source.tools)
        return bool(self._portal.run(self._client.list_tools(source.env_name)))

    def begin_training(self, tasks: Sequence[TaskRef]) -> None:
        """Forget the last training. ``tasks`` are those of the trainer's dataset that may be played for others."""
        self._replacements = Replacements(tasks, self.source.replacement_order)
        self._spare_tasks = TaskSampler(tasks, seed=1) if tasks else ()

    def begin_batch(self) -> None:
        """Begin a batch: what the last one showed of the tasks may decide who replaces whom."""
        self._replacements.begin_batch()

    async def play(
        self, task: TaskRef, size: int, policy: TokenPolicy, *, seed: int, training: bool
    ) -> list[TrajectoryGroup]:
        """Play a group; the last one returned counts, and any before it were replaced by it.

        Only training replaces: an evaluation is of the tasks it names.
        """
        source = self.source
        groups = await self._play_task(task, size, policy, seed=seed, training=training)
        if not training or source.equal_groups == "keep":
            return groups
        others = itertools.islice(self._replacements.instead_of(task, seed), source.max_replacements)
        for number in itertools.count():
            taught = source.teaches(groups[-1])
            if not groups[-1].dropped:
                self._replacements.saw(groups[-1].task, taught)
            if taught or groups[-1].dropped or (other := next(others, None)) is None:
                break
            again = derive_seed(seed, "instead", number)
            played = await self._play_task(other, size, policy, seed=again, training=training)
            groups += [replace(group, refilled_for=group.refilled_for or task) for group in played]
        return groups

    async def _play_task(
        self, task: TaskRef, size: int, policy: TokenPolicy, *, seed: int | None, training: bool
    ) -> list[TrajectoryGroup]:
        """Play a group, and others where it is dropped and is to be refilled."""
        failures = self.source.failures
        following: Iterable[TaskRef] = ()
        if failures.incomplete == "refill":
            if training:
                following = itertools.islice(self._spare_tasks, failures.refills)
            else:
                failures = replace(failures, incomplete="drop")
        groups: list[TrajectoryGroup] = []
        for number, other in enumerate(itertools.chain([task], following)):
            group = await run_group(
                self.host,
                other,
                size,
                policy=policy,
                failures=failures,
                score_group=self.source.score_group,
                seed=derive_seed(seed, str(other), number),
            )
            groups.append(replace(group, refilled_for=groups[-1].task) if groups else group)
            if not group.dropped:
                break
        return groups

    def _load(self, split: str) -> Sequence[TaskRef]:
        source = self.source
        return self._describe(
            self._portal.run(load_tasks(self._client, source.env_name, split, limit=source.max_tasks))
        )

    def _describe(self, tasks: Sequence[TaskRef]) -> Sequence[TaskRef]:
        return self._portal.run(describe_tasks(self._client, tasks))
