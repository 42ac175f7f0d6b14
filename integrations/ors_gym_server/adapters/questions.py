"""Question data sets as ORS environments: one question, one answer and one verifier per episode.

::

    import reasoning_gym

    train = reasoning_gym.create_dataset("leg_counting", seed=1, size=1000)
    test = reasoning_gym.create_dataset("leg_counting", seed=2, size=100)
    LegCounting = from_questions("leg_counting", {"train": train, "test": test}, score=train.score_answer)
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

from pydantic import BaseModel, Field

from ors_gym.types import Split, Task, ToolOutput
from ors_gym_server.authoring.environment import Environment, terminal, tool

__all__ = ["Entries", "QuestionEnvironment", "Score", "from_questions"]


class Entries(Protocol):
    """A sequence of entries: mappings, as in a list, a ``datasets.Dataset`` or a procedural data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Score: TypeAlias = Callable[..., float | bool]
"""``score(answer, entry)`` returns the reward of an answer; the arguments are passed by name or in this order."""


class Answer(BaseModel):
    """The answer to the question."""

    answer: str = Field(description="The answer alone, without how it was found.")


class QuestionEnvironment(Environment):
    """One question. :func:`from_questions` creates its classes."""

    entries: ClassVar[Mapping[str, Entries]]
    score: ClassVar[Score]
    ask: ClassVar[Callable[[Mapping[str, Any]], str]]
    instructions: ClassVar[str]

    @classmethod
    def list_splits(cls) -> Sequence[Split | str]:
        """The splits given to the class."""
        return [Split(name, name if name in ("train", "validation", "test") else "train") for name in cls.entries]

    @classmethod
    def num_tasks(cls, split: str) -> int:
        """The number of questions in the split."""
        return len(cls.entries[split])

    @classmethod
    def get_task(cls, split: str, index: int) -> Task:
        """The task at ``index``: its index, without the answer."""
        if not 0 <= index < len(cls.entries[split]):
            raise IndexError(f"split {split!r} has {len(cls.entries[split])} questions, and none at {index}")
        return {"id": f"{split}-{index}", "split": split, "index": index}

    def setup(self) -> None:
        """Read the question."""
        self._entry = type(self).entries[self.task_spec["split"]][self.task_spec["index"]]

    def get_prompt(self) -> str:
        """The instructions and the question."""
        question = type(self).ask(self._entry)
        return f"{self.instructions}\n\n{question}" if self.instructions else question

    @terminal
    @tool
    def answer(self, given: Answer) -> ToolOutput:
        """Answer the question. There is one try."""
        return ToolOutput(reward=float(type(self).score(given.answer, self._entry)), finished=True)


def from_questions(
    name: str,
    splits: Mapping[str, Entries],
    *,
    score: Score,
    question: str | Callable[[Mapping[str, Any]], str] = "question",
    instructions: str = "",
) -> type[QuestionEnvironment]:
    """Convert questions with a verifier to an ORS environment.

    The answer is a plain final message of the model, or a call of the tool ``answer``.

    Args:
        name: The name of the class and the environment.
        splits: The entries of each split.
        score: The reward of an answer: ``score(answer, entry)``, such as ``score_answer`` of reasoning-gym's data sets.
        question: The field of an entry with the question, or a function that creates it from the entry.
        instructions: Text before each question, such as the required format of answers.

    Raises:
        ValueError: there is no split, or one without entries.
    """
    empty = [split for split, entries in splits.items() if not len(entries)]
    if empty or not splits:
        raise ValueError(f"the split {empty[0]!r} has no questions" if empty else "there must be at least one split")
    first = next(iter(splits.values()))[0]
    if isinstance(question, str) and question not in first:
        raise ValueError(f"entries have no {question!r}; they have {', '.join(map(str, first))}")
    by_name = {"answer", "entry"} <= inspect.signature(score).parameters.keys()

    def rate(answer: str, entry: Any) -> float | bool:
        return score(answer=answer, entry=entry) if by_name else score(answer, entry)

    def ask(entry: Mapping[str, Any]) -> str:
        return question(entry) if callable(question) else str(entry[question])

    attributes = {
        "__doc__": f"The questions of {name}.",
        "entries": dict(splits),
        "score": staticmethod(rate),
        "ask": staticmethod(ask),
        "instructions": instructions,
    }
    return type(re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "Questions", (QuestionEnvironment,), attributes)
