"""ORS episodes for ``AsyncGRPOTrainer``: they go on while the trainer trains."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import nan
from typing import Any, Literal

import numpy as np
from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

from ors_gym.rollouts.returns import AdvantageMethod, combine_scores, group_advantages, turn_returns
from ors_gym.rollouts.tasks import TaskSampler
from ors_gym.trajectory import TaskRef, TrajectoryGroup
from ors_gym_trl.batch import RolloutBatch
from ors_gym_trl.environment import Source
from ors_gym_trl.metrics import rollout_metrics
from ors_gym_trl.policy import TokenPolicy
from ors_gym_trl.rollouts import Rollouts
from ors_gym_trl.sampling.vllm import ServerSampler, sampling_parameters
from ors_gym_trl.tokens.conversation import ChatTokenizer, TokenRecord, chat_messages

__all__ = ["ORSRolloutWorker"]


class ORSRolloutWorker:
    """Plays ORS episodes against the vLLM server, in threads of the trainer's process.

    ::

        args = AsyncGRPOConfig(vllm_server_base_url="http://localhost:8000", num_generations=8, …)
        worker = ORSRolloutWorker(rollouts, args, tokenizer)
        AsyncGRPOTrainer(
            model=model, args=args, processing_class=tokenizer, train_dataset=rollouts.train_dataset,
            reward_funcs=rollouts.reward_funcs, rollout_worker=worker,
        ).train()

    It implements ``trl.experimental.async_grpo``'s ``RolloutWorkerProtocol``: the trainer drains ``rollout_buffer``
    and ``metrics_queue``. Samples come a whole group at a time, all of one model version: the one that was live when
    the group began. A group that became older than ``max_staleness`` meanwhile is left out whole, and so is a dropped
    one. The tokens are the tokens sampled, one row an episode; nothing is re-tokenised, so nothing forks.

    With ``credit="turn"`` an episode gives one row a turn: the turn's own tokens are trained with the turn's own
    advantage, the turn's return beside those of the same turn in the group's other episodes. This is the place for it,
    because here a row carries its advantage with it; ``GRPOTrainer`` takes one reward an episode, and one row for each
    prompt. The rows of an episode share their beginning, which the trainer's packing computes once.

    Args:
        rollouts: The environments; its limits, rewards and failure policies hold here too.
        args: The trainer's ``AsyncGRPOConfig``: server, sampling, ``num_generations``, ``max_staleness``.
        processing_class: The model's tokenizer.
        model: The model's name on the server, or what it is called as of a version: with adapters the trainer
            publishes each version under a name of its own. None asks the server.
        credit: What an advantage belongs to: the ``"episode"``, or each ``"turn"``.
        discount: Of later turns' rewards in a turn's return.
        advantages: How a group's returns are compared.
        max_groups_ahead: Groups being played or waiting to be trained on; more are not begun.
        seed: Of the order of tasks.
        stop_token_ids: The model's stop tokens; None is the tokenizer's end-of-sequence token.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        args: Any,
        processing_class: Any,
        *,
        model: str | Callable[[int], str] | None = None,
        credit: Literal["episode", "turn"] = "episode",
        discount: float = 1.0,
        advantages: AdvantageMethod = "group",
        max_groups_ahead: int = 16,
        seed: int = 0,
        stop_token_ids: Sequence[int] | None = None,
    ) -> None:
        if credit not in ("episode", "turn"):
            raise ValueError(f"credit must be 'episode' or 'turn', not {credit!r}")
        if credit == "turn" and any(source.score_group for source in rollouts.sources.values()):
            raise ValueError('score_group compares whole episodes: with credit="turn" its scores belong to no turn')
        self._buffer = _Buffer(self._wake)
        self.rollout_buffer: queue.Queue[RolloutSample] = self._buffer
        self.metrics_queue: queue.Queue[dict[str, float]] = queue.Queue()
        self.model_version = 0
        self._rollouts = rollouts
        self._model = model
        self._credit = credit
        self._discount = discount
        self._method: AdvantageMethod = advantages
        self._num_generations: int = args.num_generations
        self._max_staleness: int = args.max_staleness
        self._max_groups_ahead = max_groups_ahead
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        stops = [tokenizer.eos_token_id] if stop_token_ids is None else list(stop_token_ids)
        self._sampler = ServerSampler(
            args.vllm_server_base_url.rstrip("/").removesuffix("/v1"),
            sampling_parameters(args),
            frozenset(stops),
            model=model(0) if callable(model) else model,
            timeout_seconds=args.vllm_server_timeout,
        )
        sources = rollouts.sources
        self._tokenizers = {
            name: ChatTokenizer(tokenizer, source.template_options, stops) for name, source in sources.items()
        }
        self._max_completion_length: int = args.max_completion_length
        owned = [(source, task) for source in sources.values() for task in source.train_tasks()]
        self.tasks = TaskSampler([task for _, task in owned], seed=seed)
        """Which task next; its ``state_dict`` continues the order in another run."""
        # By identity: environments of a mix may have equal tasks, and the sampler yields these very objects.
        self._source_of = {id(task): source for source, task in owned}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._stopping = False
        self._fault: BaseException | None = None
        self._last_sign_of_life = time.monotonic()
        self._next_group = 0

    def start(self) -> None:
        """Begin to play, in a thread; again, after :meth:`stop`, when the trainer trains again."""
        if self._thread is not None:
            raise RuntimeError("the worker was started before")
        self._stopping, self._fault = False, None
        self._last_sign_of_life = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="ors-gym rollout worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the episodes that are under way, and close their sessions."""
        self._stopping = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def update_model_version(self, model_version: int) -> None:
        """Tag the groups that begin from now on with ``model_version``."""
        self.model_version = model_version
        if callable(self._model):
            self._sampler.model = self._model(model_version)

    def check_health(self, stale_after_s: float) -> None:
        """Raise if playing has ended by a fault, or its event loop hangs."""
        if self._fault is not None:
            raise RuntimeError(f"the rollout worker has failed: {self._fault}") from self._fault
        silent = time.monotonic() - self._last_sign_of_life
        if self._thread is not None and silent > stale_after_s:
            raise RuntimeError(
                f"the rollout worker gave no sign of life for {silent:.0f} s (allowed: {stale_after_s:g})"
            )

    def _run(self) -> None:
        try:
            with self._sampler.open():
                self._rollouts.portal.run(self._produce())
        except BaseException as fault:
            self._fault = fault

    def _wake(self) -> None:
        if self._loop is not None and self._woken is not None and not self._loop.is_closed():
            with suppress(RuntimeError):  # the loop closed this very moment
                self._loop.call_soon_threadsafe(self._woken.set)

    async def _produce(self) -> None:
        self._loop, self._woken = asyncio.get_running_loop(), asyncio.Event()
        playing: set[asyncio.Task[None]] = set()
        try:
            while not self._stopping:
                self._last_sign_of_life = time.monotonic()
                self._woken.clear()
                for group in [group for group in playing if group.done()]:
                    playing.remove(group)
                    group.result()  # a fault of the policy's ends the worker
                waiting = self._buffer.num_groups
                while len(playing) + waiting < self._max_groups_ahead:
                    begun = asyncio.create_task(self._play(self._next_group, next(self.tasks)))
                    begun.add_done_callback(lambda _: self._wake())
                    playing.add(begun)
                    self._next_group += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), 1.0)
        finally:
            for group in playing:
                group.cancel()
            await asyncio.gather(*playing, return_exceptions=True)

    async def _play(self, group_id: int, task: TaskRef) -> None:
        started, version = time.monotonic(), self.model_version
        source = self._source_of[id(task)]
        policy = TokenPolicy(  # of this group: the tokens of attempts that failed go with it
            self._tokenizers[source.name],
            source.parser,
            self._sampler.submit,
            max_completion_tokens=self._max_completion_length,
            max_turn_tokens=source.max_turn_tokens,
        )
        *replaced, group = await source.play(task, self._num_generations, policy, training=True)
        records = {member.episode_id: policy.records.get(member.episode_id) for member in group.members}
        returns = combine_scores([source.worth.of(group, member) for member in group.members], group.scores)
        stale = self.model_version - version > self._max_staleness
        samples = [] if stale else self._samples(source, group, returns, records, version, group_id)
        for sample in samples:
            sample.enqueued_at = time.time()
            self.rollout_buffer.put(sample)
        batch = RolloutBatch(
            step=version,
            training=True,
            groups=(group,),
            returns=tuple(returns),
            seconds=time.monotonic() - started,
            sampling_seconds=0.0,
            sampled_tokens=sum(sum(record.mask) for record in records.values() if record is not None),
            replaced_groups=tuple(replaced),
        )
        self.metrics_queue.put(rollout_metrics(batch) | {"rollout/stale_groups_total": float(stale)})
        for listener in self._rollouts.listeners:
            listener(batch)

    def _samples(
        self,
        source: Source,
        group: TrajectoryGroup,
        returns: Sequence[float | None],
        records: Mapping[str, TokenRecord | None],
        version: int,
        group_id: int,
    ) -> list[RolloutSample]:
        values = np.array([nan if value is None else value for value in returns])
        if np.isnan(values).all():
            return []
        spread = float(np.nanstd(values))
        if self._credit == "episode":
            advantages = [[float(advantage)] for advantage in group_advantages(values, self._method)]
        else:
            advantages = self._turn_advantages(source, group)
        samples: list[RolloutSample] = []
        for member, value, worth in zip(group.members, returns, advantages, strict=True):
            record = records[member.episode_id]
            if value is None or record is None or not any(record.mask):
                continue
            num_prompt = len(member.messages) - len(member.completion)
            prompt, completion = member.messages[:num_prompt], member.completion
            metrics = {"reward": value, "reward_std": spread, "rewards/ors_return": value}
            for row, advantage in zip(_rows(record, self._credit), worth, strict=False):
                samples.append(
                    RolloutSample(
                        prompt=chat_messages(prompt),
                        completion=chat_messages(completion),
                        input_ids=np.asarray(row.ids, dtype=np.int64),
                        completion_mask=np.asarray([0] * len(row.prompt_ids) + row.mask, dtype=np.int64),
                        old_log_probs=np.asarray([0.0] * len(row.prompt_ids) + row.logprobs, dtype=np.float32),
                        advantage=advantage,
                        model_version=version,
                        group_id=group_id,
                        metrics=metrics,
                    )
                )
        return samples

    def _turn_advantages(self, source: Source, group: TrajectoryGroup) -> list[list[float]]:
        """What each turn of each member is worth beside the same turn of the others."""
        by_member = [
            turn_returns(
                member,
                discount=self._discount,
                truncated_reward=source.worth.truncated_reward,
                stopped_reward=source.worth.stopped_reward,
            )
            for member in group.members
        ]
        table = np.full((max(map(len, by_member)), len(by_member)), nan)
        for place, values in enumerate(by_member):
            table[: len(values), place] = [nan if value is None else value for value in values]
        worth = group_advantages(table, self._method)
        return [worth[: len(values), place].tolist() for place, values in enumerate(by_member)]


class _Buffer(queue.Queue[RolloutSample]):
    """Says when something was taken out, so that nobody has to look, and of how many groups it holds rows."""

    def __init__(self, taken: Callable[[], None]) -> None:
        super().__init__()
        self._taken = taken
        self._rows_of: Counter[int] = Counter()

    @property
    def num_groups(self) -> int:
        """Groups of which there are rows; how many those are is the episodes' and the turns' doing."""
        return len(self._rows_of)

    def _put(self, item: RolloutSample) -> None:
        super()._put(item)
        self._rows_of[item.group_id] += 1

    def _get(self) -> RolloutSample:
        sample = super()._get()
        self._rows_of[sample.group_id] -= 1
        if not self._rows_of[sample.group_id]:
            del self._rows_of[sample.group_id]
        self._taken()
        return sample


def _rows(record: TokenRecord, credit: str) -> list[TokenRecord]:
    """The record as one row, or as one a turn: the turn's tokens are trained, what stood before it is its prompt."""
    record.drop_trailing_environment()
    if credit == "episode":
        return [record]
    rows: list[TokenRecord] = []
    for start, stop in record.turns():
        before = record.prompt_ids + record.completion_ids[:start]
        rows.append(
            TokenRecord(before, record.completion_ids[start:stop], record.logprobs[start:stop], record.mask[start:stop])
        )
    return rows
