"""A run as one HTML page that needs nothing else: no network, no files beside it.

A producer (a trainer, ``ors-gym rollout``) fills a :class:`RunRecord` as it goes; :func:`write_report` writes the page,
during the run as often as one likes. The page's reader may open it anywhere, also years later.

What environments and models wrote is untrusted: see :mod:`ors_gym.reporting.html`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from ors_gym.redaction import MASK, Redactor, visible
from ors_gym.reporting.html import write_page
from ors_gym.reporting.record_format import plain_json
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.rollouts.summary import Summary
from ors_gym.trajectory import Trajectory, TrajectoryGroup, Transition
from ors_gym.types import ImageBlock, MessageBlock, ReasoningBlock, TextBlock, ToolCall, ToolCallBlock, ToolResultBlock

__all__ = [
    "ContentLimits",
    "Measurement",
    "PageContent",
    "ReportLimits",
    "RunRecord",
    "Sample",
    "StepRecord",
    "episode_to_page",
    "write_report",
]

JSON: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """The mean return of a policy that was not trained meanwhile, and over how many episodes."""

    reward: float
    episodes: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one training step saw. None means not measured. Means are over episodes, seconds are wall-clock.

    ``seconds`` counts from the start of the run to the end of the step. ``rollout_seconds`` and ``training_seconds``
    are what the step spent playing and learning; of the rollout, ``generation_seconds`` went into the model and
    ``environment_seconds`` into waiting for environments.
    """

    step: int
    seconds: float
    episodes: int = 0
    reward: float | None = None
    reward_std: float | None = None
    turns: float | None = None
    tokens: float | None = None
    stop_reasons: Mapping[str, int] = field(default_factory=dict[str, int])
    tool_calls: Mapping[str, int] = field(default_factory=dict[str, int])
    failures: Mapping[str, int] = field(default_factory=dict[str, int])
    dropped_groups: int = 0
    scored: int | None = None
    """Episodes with a return: what ``reward`` is the mean of."""
    unrewarded: int | None = None
    """Of those, the ones that were given no reward."""
    failed: int | None = None
    rollout_seconds: float | None = None
    generation_seconds: float | None = None
    environment_seconds: float | None = None
    training_seconds: float | None = None

    @classmethod
    def from_groups(
        cls,
        step: int,
        groups: Iterable[TrajectoryGroup],
        *,
        seconds: float,
        score: Callable[[Trajectory], float | None] = trajectory_return,
        tokens: float | None = None,
        rollout_seconds: float | None = None,
        generation_seconds: float | None = None,
        environment_seconds: float | None = None,
        training_seconds: float | None = None,
    ) -> StepRecord:
        """Count what happened in ``groups``; what trajectories cannot know (tokens, seconds) is the caller's to give.

        ``score`` says what a trajectory's return is. Failed episodes have none and are counted in ``failures`` only,
        once for each attempt that failed.
        """
        summary = Summary.of(groups, score)
        return cls(
            step,
            seconds,
            summary.episodes,
            summary.mean_return,
            summary.return_std,
            summary.mean_turns,
            tokens,
            stop_reasons=summary.stop_reasons,
            tool_calls=summary.tool_calls,
            failures=summary.failures,
            dropped_groups=summary.dropped_groups,
            scored=summary.scored,
            unrewarded=summary.unrewarded,
            failed=summary.failed,
            rollout_seconds=rollout_seconds,
            generation_seconds=generation_seconds,
            environment_seconds=environment_seconds,
            training_seconds=training_seconds,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """A trajectory to show. ``step`` is the training step it was played in, ``label`` says it where there is none."""

    trajectory: Trajectory
    step: int | None = None
    label: str = ""
    episode_return: float | None = None
    """The return as the run counted it, None where there is none."""
    advantage: float | None = None
    group: str = ""
    """Samples with the same ``group`` played the same task side by side."""


@dataclass(slots=True)
class RunRecord:
    """All that the page shows. It grows with the run: append to ``steps`` and ``samples``."""

    title: str
    description: str = ""
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    baseline_reward: Measurement | None = None
    """What a policy gets that picks tools and inputs at random."""
    warmup: str = ""
    """What the model was taught before the first step, in a sentence."""
    reward_after_warmup: Measurement | None = None
    steps: list[StepRecord] = field(default_factory=list[StepRecord])
    samples: list[Sample] = field(default_factory=list[Sample])
    total_steps: int | None = None
    """How many steps are planned."""
    ended: str = ""
    """How the run ended: ``finished``, ``interrupted``, …; empty while it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentLimits:
    """How much of what was said a page holds. What is left out is said in its place."""

    text_characters: int = 8_000
    """Of one text: a prompt, a message, a tool's input or result."""
    image_bytes: int = 16_000_000
    """Of all images together, as base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLimits(ContentLimits):
    """How much the page of a run holds."""

    samples: int = 200
    """Trajectories; of more, some are taken that lie evenly over the run."""


def write_report(
    path: str | os.PathLike[str],
    record: RunRecord,
    *,
    secrets: Iterable[str] = (),
    limits: ReportLimits = ReportLimits(),
) -> Path:
    """Write the page to ``path``, in place of what was there, and return the path.

    The file appears whole or not at all. Settings whose names say that they are secret (``api_key``, ``password``, …),
    the user parts of URLs, and every occurrence of a string in ``secrets`` are masked.
    """
    content = PageContent(secrets, limits)
    scripts = ("elements.js", "episodes.js", "run.js")
    return write_page(
        path, title=content.masked(record.title), data=lambda: _run(record, content, limits.samples), scripts=scripts
    )


SECRET_NAME = re.compile(
    r"(^|[_-])((api|access|private)[_-]?key|secrets?|password|passwd|credentials?|authorization)([_-]|$)"
    r"|(^|auth|access|bearer|hub|hf|refresh|id|api)[_-]?token$",
    re.IGNORECASE,
)
URL_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
IMAGE_TYPE = re.compile(r"image/[a-z0-9.+-]+", re.IGNORECASE)
BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


class PageContent:
    """Turns what a run left into JSON for the page: masked, cut to size, and finite."""

    def __init__(self, secrets: Iterable[str], limits: ContentLimits) -> None:
        self._mask = Redactor(secrets)
        self._image_bytes_left = limits.image_bytes
        self.limits = limits

    def masked(self, text: str) -> str:
        """``text`` without secrets, controls and marks of direction, as Unicode that every reader of the page takes."""
        return visible(self._mask(URL_USER.sub(MASK, text)))

    def text(self, text: str) -> JSON:
        """A text, cut to size."""
        text = self.masked(text)
        limit = self.limits.text_characters
        return {"text": text[:limit]} | ({"cut": len(text) - limit} if len(text) > limit else {})

    def image(self, block: ImageBlock) -> JSON:
        """An image, or why it is left out."""
        data = "".join(block.data.split())
        left_out = {"left_out": f"{self.masked(block.mime_type)}, {len(data) * 3 // 4:,} bytes"}
        if not (IMAGE_TYPE.fullmatch(block.mime_type) and BASE64.fullmatch(data)):
            return {"left_out": "an image that is not base64 of an image type"}
        if len(data) > self._image_bytes_left:
            return left_out
        self._image_bytes_left -= len(data)
        return {"image": f"data:{block.mime_type};base64,{data}"}

    def blocks(self, blocks: Iterable[MessageBlock], *, with_calls: bool = False) -> list[JSON]:
        """The parts to show, without tool calls and results unless asked: they are shown from the transitions."""
        parts: list[JSON] = []
        for block in blocks:
            match block:
                case TextBlock(text=text):
                    parts.append(self.text(text))
                case ReasoningBlock(text=text):
                    parts.append({"reasoning": True} | self.text(text))
                case ImageBlock():
                    parts.append(self.image(block))
                case ToolCallBlock(name=name, input=arguments):
                    parts += [self.text(f"{name}({_plain(dict(arguments))})")] if with_calls else []
                case ToolResultBlock(blocks=inner):
                    parts += self.blocks(inner) if with_calls else []
        return parts

    def arguments(self, arguments: Mapping[str, Any]) -> list[JSON]:
        """Name and value of each; a text of several lines as it is, everything else as JSON."""
        return [[self.masked(str(name)), self.text(_plain(value))] for name, value in arguments.items()]

    def setting(self, name: str, value: object) -> str:
        """A setting's value; masked where its name says that it is secret."""
        if SECRET_NAME.search(name) and value is not None:
            return MASK
        return self.masked(value if isinstance(value, str) else _plain(value))


def _plain(value: object) -> str:
    if isinstance(value, str) and "\n" in value:
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return json.dumps(plain_json(value, str), ensure_ascii=False)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _run(record: RunRecord, content: PageContent, limit: int) -> JSON:
    shown = record.samples
    if len(shown) > limit:
        last = len(shown) - 1
        shown = [shown[round(place * last / max(limit - 1, 1))] for place in range(limit)]
    return {
        "title": content.masked(record.title),
        "description": content.masked(record.description),
        "settings": [[content.masked(name), content.setting(name, value)] for name, value in record.settings.items()],
        "baseline": _measurement(record.baseline_reward),
        "warmup": content.masked(record.warmup),
        "afterWarmup": _measurement(record.reward_after_warmup),
        "totalSteps": record.total_steps,
        "ended": content.masked(record.ended),
        "steps": [_step(step, content) for step in record.steps],
        "samples": [episode_to_page(sample, content) for sample in shown],
        "numSamples": len(record.samples),
    }


def _measurement(measured: Measurement | None) -> JSON:
    return measured and {"reward": _finite(measured.reward), "episodes": measured.episodes}


def _step(step: StepRecord, content: PageContent) -> JSON:
    row: dict[str, JSON] = {}
    for column in fields(step):
        value: Mapping[str, int] | float | None = getattr(step, column.name)
        if isinstance(value, Mapping):
            row[column.name] = {content.masked(name): count for name, count in value.items()}
        else:
            row[column.name] = _finite(value)
    return row


def episode_to_page(sample: Sample, content: PageContent) -> JSON:
    """An episode as the page's script reads it."""
    episode = sample.trajectory
    return {
        "step": sample.step,
        "label": content.masked(sample.label),
        "group": content.masked(sample.group),
        "return": _finite(sample.episode_return),
        "advantage": _finite(sample.advantage),
        "id": content.masked(episode.episode_id),
        "task": content.text(str(episode.task)),
        "stopReason": str(episode.stop_reason),
        "failure": episode.failure
        and {"kind": content.masked(episode.failure.kind), "message": content.text(episode.failure.message)},
        "seconds": _finite(episode.seconds),
        "turns": episode.num_turns,
        "attempt": episode.attempt,
        "events": _events(episode, content),
    }


def _events(episode: Trajectory, content: PageContent) -> list[JSON]:
    """The episode in reading order: messages of the prompt, then each turn's message, its calls and their results.

    Turns of the policy count from 0; messages of the prompt have -1, and those before its own assistant's less.
    """
    turn = -1 - sum(message.role == "assistant" for message in episode.prompt)
    events: list[JSON] = []
    for message in episode.prompt:
        turn += message.role == "assistant"
        events += _message(message.role, turn, content.blocks(message.blocks, with_calls=True))
    for turn, exchange in enumerate(episode.exchanges):
        reply = exchange.reply
        events += _message("assistant", turn, content.blocks(exchange.said().blocks))
        events += (_call(transition, turn, content) for transition in exchange.transitions)
        answered = {transition.action.id for transition in exchange.transitions}
        events += (_unanswered(call, turn, content) for call in reply.tool_calls if call.id not in answered)
        told = [*([content.text(reply.error)] if reply.error else []), *content.blocks(exchange.notices)]
        events += _message("user", turn, told)
    return events


def _message(role: str, turn: int, parts: Sequence[JSON]) -> list[JSON]:
    return [{"kind": "message", "role": role, "turn": turn, "parts": parts}] if parts else []


def _call(transition: Transition, turn: int, content: PageContent) -> JSON:
    action, output = transition.action, transition.output
    return {
        "kind": "call",
        "turn": turn,
        "name": content.masked(action.name),
        "arguments": content.arguments(action.input),
        "ok": output.ok,
        "reason": output.reason and content.masked(output.reason),
        "parts": content.blocks(output.shown),
        "reward": _finite(output.reward),
        "finished": output.finished,
        "seconds": _finite(transition.seconds),
    }


def _unanswered(call: ToolCall, turn: int, content: PageContent) -> JSON:
    arguments = content.arguments(call.input)
    return {"kind": "unanswered", "turn": turn, "name": content.masked(call.name), "arguments": arguments}
