"""Where a turn is sampled: one small interface, and what the samplers behind it share."""

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
    """The model, or the server that holds it, could not be sampled from; the message says why."""


@dataclass(frozen=True, slots=True)
class SampledTurn:
    """One sampled continuation: ``ids`` up to and with the end-of-sequence token, ``logprobs`` in nats, as long."""

    ids: list[int]
    logprobs: list[float]
    ended: bool
    """Whether the model ended it, rather than the token limit."""

    @classmethod
    def cut(cls, ids: Sequence[int], logprobs: Sequence[float], limit: int, stops: frozenset[int]) -> SampledTurn:
        """The first turn in ``ids``: up to and with the first of ``stops``, at most ``limit`` tokens."""
        end = next((i + 1 for i, token in enumerate(ids[:limit]) if token in stops), None)
        stop = limit if end is None else end
        return cls(list(ids[:stop]), list(logprobs[:stop]), ended=end is not None)

    def before(self, token: int) -> SampledTurn:
        """What was sampled before ``token``, as if the limit had been there."""
        place = self.ids.index(token)
        return SampledTurn(self.ids[:place], self.logprobs[:place], ended=False)


class Sampler(Protocol):
    """What a rollout asks for turns. Each episode asks for itself: there is no barrier and no collective call.

    The trainer's thread holds :meth:`open` around a rollout and spends it in :meth:`serve`; episodes, on other
    threads, call :meth:`submit`.
    """

    @property
    def seconds(self) -> float:
        """Wall time in which something was being sampled."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What shaped the distribution whose log-probabilities it gives (:mod:`ors_gym_trl.sampling.distribution`).

        Empty where they are taken before that, at the temperature.
        """
        ...

    def open(self) -> AbstractContextManager[Any]:
        """Hold the model, or the way to it, ready for one rollout."""
        ...

    def submit(
        self, prompt: Sequence[int], max_new_tokens: int, pictures: Sequence[ImageInputs] = (), seed: int | None = None
    ) -> Future[SampledTurn]:
        """Continue ``prompt``, which holds these images, by at most ``max_new_tokens`` tokens drawn with ``seed``.

        Cancel the future to give the turn up.
        """
        ...

    def serve(self) -> None:
        """Do what only the calling thread, the trainer's, can do, until :meth:`stop` is called."""
        ...

    def stop(self) -> None:
        """End :meth:`serve`, from any thread: the episodes are over."""
        ...


class BusyClock:
    """Wall time during which at least one thing is under way, told by any thread."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._under_way = 0
        self._since = 0.0
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """The time so far, what is under way included."""
        with self._lock:
            return self._seconds + (time.monotonic() - self._since if self._under_way else 0.0)

    def begin(self) -> None:
        """Something begins."""
        with self._lock:
            if not self._under_way:
                self._since = time.monotonic()
            self._under_way += 1

    def end(self) -> None:
        """Something that began has ended."""
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                self._seconds += time.monotonic() - self._since


def random_seed() -> int:
    """A seed that is no other turn's: without one, engines that draw alike would repeat an episode."""
    return random.getrandbits(31)


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """A turn that is asked for."""

    prompt: Sequence[int]
    max_new_tokens: int
    pictures: Sequence[ImageInputs] = ()
    seed: int = field(default_factory=random_seed)
    answer: Future[SampledTurn] = field(default_factory=Future[SampledTurn])


class BatchSampler(ABC):
    """Samples in the trainer's thread, in batches of whatever is waiting when the model is free."""

    max_batch = 128
    """Turns sampled in one batch."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[SamplingRequest | None] = queue.SimpleQueue()
        self.seconds = 0.0
        """Wall time spent sampling so far."""
        self.settings: Mapping[str, Any] = {}
        """What shaped the distribution whose log-probabilities it gives."""

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
        """Sample batch after batch until :meth:`stop`. A fault of the model is raised here, in the trainer's thread."""
        while (first := self._waiting.get()) is not None:
            requests = [first]
            while len(requests) < self.max_batch and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    return
                requests.append(following)
            # An episode that ran out of time has given its turn up.
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
