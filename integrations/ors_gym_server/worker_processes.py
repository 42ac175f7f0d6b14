"""Episodes in worker processes: for environments that keep a processor busy, or that want the main thread.

A thread that computes holds Python's lock, and with it every session of the server; a process does not. Each session is
played by one worker from beginning to end, and a worker plays its sessions one call at a time on its main thread.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ors_gym.types import Block, Task, ToolOutput
from ors_gym_server.gymnasium_episode import Episode, Recipe

__all__ = ["RemoteEpisode", "WorkerProcesses"]


class WorkerProcesses:
    """``count`` processes, started when they are first needed and ended with this one."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"there must be at least one worker process, not {count}")
        self._lock = threading.Lock()
        self._workers = [_WorkerProcess() for _ in range(count)]

    def episode(self, recipe: Recipe) -> RemoteEpisode:
        """A new episode, on the worker that has the fewest."""
        with self._lock:
            worker = min(self._workers, key=lambda worker: worker.num_episodes)
            worker.num_episodes += 1
        try:
            return RemoteEpisode(worker, recipe)
        except BaseException:
            worker.num_episodes -= 1
            raise

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()


class _WorkerProcess:
    def __init__(self) -> None:
        self.num_episodes = 0
        self._lock = threading.Lock()
        self._executor: ProcessPoolExecutor | None = None

    def executor(self) -> ProcessPoolExecutor:
        """The running process: after one died, a new one, for new episodes."""
        with self._lock:
            if self._executor is None:
                # Spawned, because a server has threads, and a forked process would have their locks.
                context = multiprocessing.get_context("spawn")
                self._executor = ProcessPoolExecutor(1, context, initializer=_ignore_interrupts)
            return self._executor

    def forget(self, executor: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._executor is executor:
                self._executor = None
        executor.shutdown(wait=False)

    def close(self) -> None:
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(cancel_futures=True)


class RemoteEpisode:
    """An :class:`~ors_gym_server.gymnasium_episode.Episode` in a worker process; its calls wait for the answer.

    Raises:
        RuntimeError: The process died, and the episode with it.
    """

    _numbers = itertools.count()

    def __init__(self, worker: _WorkerProcess, recipe: Recipe) -> None:
        self._worker, self._executor = worker, worker.executor()
        self._number = next(self._numbers)
        self._call(_begin, recipe)

    def reset(self, task: Task) -> tuple[Block, ...]:
        """See :meth:`Episode.reset`."""
        blocks: tuple[Block, ...] = self._call(_reset, dict(task))
        return blocks

    def step(self, action: Any) -> ToolOutput:
        """See :meth:`Episode.step`."""
        output: ToolOutput = self._call(_step, action)
        return output

    def close(self) -> None:
        """See :meth:`Episode.close`; also when the process is no more."""
        self._worker.num_episodes -= 1
        try:
            self._executor.submit(_end, self._number).result()
        except BrokenProcessPool:
            self._worker.forget(self._executor)

    def _call(self, fn: Any, argument: Any) -> Any:
        try:
            return self._executor.submit(fn, self._number, argument).result()
        except BrokenProcessPool:
            self._worker.forget(self._executor)
            raise RuntimeError("the process that the environment lived in died") from None


# ---- in the worker process

_episodes: dict[int, Episode] = {}


def _ignore_interrupts() -> None:
    """Ctrl-C is the server's to answer: it ends its sessions, then this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _begin(number: int, recipe: Recipe) -> None:
    _episodes[number] = Episode(recipe)


def _reset(number: int, task: Task) -> tuple[Block, ...]:
    return _episodes[number].reset(task)


def _step(number: int, action: Any) -> ToolOutput:
    return _episodes[number].step(action)


def _end(number: int) -> None:
    _episodes.pop(number).close()
