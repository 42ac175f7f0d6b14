"""The interface of samplers, and their shared parts."""

from __future__ import annotations

import queue
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ors_gym_trl.tokens.record import ImageInputs

__all__ = ["BatchSampler", "BusyClock", "SampledTurn", "Sampler", "SamplingError", "SamplingRequest", "random_seed"]


class SamplingError(RuntimeError):
    """Sampling from the model or its server failed."""


@dataclass(frozen=True, slots=True)
class SampledTurn:
    """One sampled continuation: ``ids`` up to and with the end-of-sequence token, ``logprobs`` in nats, as long."""

    ids: list[int]
    logprobs: list[float]
    ended: bool
    """Whether the model ended it, rather than the token limit."""

    @classmethod
    def cut(cls, ids: Sequence[int], logprobs: Sequence[float], limit: int, stops: frozenset[int]) -> SampledTurn:
        """The first turn in ``ids``: up to and including the first of ``stops``, at most ``limit`` tokens."""
        end = next((i + 1 for i, token in enumerate(ids[:limit]) if token in stops), None)
        stop = limit if end is None else end
        return cls(list(ids[:stop]), list(logprobs[:stop]), ended=end is not None)

    def before(self, token: int) -> SampledTurn:
        """The part before ``token``, as if the limit had been reached there."""
        place = self.ids.index(token)
        return SampledTurn(self.ids[:place], self.logprobs[:place], ended=False)


class Sampler(Protocol):
    """Samples turns for a rollout. Episodes ask independently, without barriers or collective calls.

    The trainer's thread enters :meth:`open` for a rollout and runs :meth:`serve` in it; episodes on other threads call
    :meth:`submit`.
    """

    @property
    def seconds(self) -> float:
        """Wall time in which something was being sampled."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings applied to the distribution of its log-probabilities (:mod:`ors_gym_trl.sampling.distribution`).

        Empty if only the temperature is applied.
        """
        ...

    def open(self) -> AbstractContextManager[Any]:
        """Prepare the model, or the connection to it, for one rollout."""
        ...

    def submit(
        self, prompt: Sequence[int], max_new_tokens: int, pictures: Sequence[ImageInputs] = (), seed: int | None = None
    ) -> Future[SampledTurn]:
        """Continue ``prompt``, which holds these images, by at most ``max_new_tokens`` tokens drawn with ``seed``.

        Cancel the future to give up the turn.
        """
        ...

    def serve(self) -> None:
        """Run the part that must run in the trainer's thread, until :meth:`stop` is called."""
        ...

    def stop(self) -> None:
        """End :meth:`serve`, from any thread: the episodes are over."""
        ...


class BusyClock:
    """Wall time during which at least one activity runs, reported by any thread."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._under_way = 0
        self._since = 0.0
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """The time so far, running activities included."""
        with self._lock:
            return self._seconds + (time.monotonic() - self._since if self._under_way else 0.0)

    def begin(self) -> None:
        """An activity begins."""
        with self._lock:
            if not self._under_way:
                self._since = time.monotonic()
            self._under_way += 1

    def end(self) -> None:
        """An activity has ended."""
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                self._seconds += time.monotonic() - self._since


def random_seed() -> int:
    """A seed used by no other turn: without one, engines with equal seeds would repeat an episode."""
    return random.getrandbits(31)


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """A requested turn."""

    prompt: Sequence[int]
    max_new_tokens: int
    pictures: Sequence[ImageInputs] = ()
    seed: int = field(default_factory=random_seed)
    answer: Future[SampledTurn] = field(default_factory=Future[SampledTurn])


class BatchSampler(ABC):
    """Samples in the trainer's thread, in batches of all turns that wait when the model is free."""

    max_batch = 128
    """Turns sampled in one batch."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[SamplingRequest | None] = queue.SimpleQueue()
        self.seconds = 0.0
        """Wall time spent sampling so far."""
        self.settings: Mapping[str, Any] = {}
        """The settings applied to the distribution of its log-probabilities."""

    @abstractmethod
    def open(self) -> AbstractContextManager[Any]:
        """Hold the model ready for one rollout."""

    @abstractmethod
    def sample(self, asked: Sequence[SamplingRequest]) -> list[SampledTurn]:
        """Continue each prompt by at most its ``max_new_tokens`` tokens."""

    def submit(
        self, prompt: Sequence[int], max_new_tokens: int, pictures: Sequence[ImageInputs] = (), seed: int | None = None
    ) -> Future[SampledTurn]:
        """Put a turn into the next batch."""
        request = SamplingRequest(prompt, max_new_tokens, pictures, random_seed() if seed is None else seed)
        self._waiting.put(request)
        return request.answer

    def serve(self) -> None:
        """Sample batches until :meth:`stop`. Errors of the model are raised here, in the trainer's thread."""
        while (first := self._waiting.get()) is not None:
            requests = [first]
            while len(requests) < self.max_batch and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    return
                requests.append(following)
            # An episode that reached its time limit has given up its turn.
            requests = [request for request in requests if request.answer.set_running_or_notify_cancel()]
            if not requests:
                continue
            started = time.monotonic()
            sampled = self.sample(requests)
            self.seconds += time.monotonic() - started
            for request, one in zip(requests, sampled, strict=True):
                request.answer.set_result(one)

    def stop(self) -> None:
        """End :meth:`serve`, from any thread."""
        self._waiting.put(None)
