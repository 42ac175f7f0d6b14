"""A run as one self-contained HTML page: one file, no network.

A producer (a trainer, ``ors-gym rollout``) fills a :class:`RunRecord` during the run; :func:`write_report` writes the
page, as often as needed while the run goes on.

The output of environments and models is untrusted: see :mod:`ors_gym.reporting.html`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from ors_gym.redaction import MASK, Redactor, visible
from ors_gym.reporting.html import read_page, write_page
from ors_gym.reporting.provenance import SECRET_NAME
from ors_gym.reporting.record_format import plain_json
from ors_gym.reporting.run_record import Measurement, Point, RunRecord, Sample, StepRecord
from ors_gym.trajectory import Trajectory, Transition
from ors_gym.types import ImageBlock, MessageBlock, ReasoningBlock, TextBlock, ToolCall, ToolCallBlock, ToolResultBlock

__all__ = [
    "ContentLimits",
    "Measurement",
    "PageContent",
    "Point",
    "ReportLimits",
    "RunRecord",
    "Sample",
    "StepRecord",
    "episode_to_page",
    "write_report",
]

JSON: TypeAlias = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentLimits:
    """Limits of the content that a page holds. The page marks what is left out."""

    text_characters: int = 8_000
    """Maximum characters of one text: a prompt, a message, a tool's input or result."""
    image_bytes: int = 16_000_000
    """Maximum bytes of all images together, as base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLimits(ContentLimits):
    """Limits of the content of a run's page."""

    samples: int = 200
    """Maximum trajectories; if there are more, a sample spread evenly over the run is shown."""


def write_report(
    path: str | os.PathLike[str],
    record: RunRecord,
    *,
    secrets: Iterable[str] = (),
    limits: ReportLimits = ReportLimits(),
) -> Path:
    """Write the page to ``path``, replacing an existing file, and return the path.

    The write is atomic. Settings with secret names (``api_key``, ``password``, …), the user parts of URLs, and every
    occurrence of a string in ``secrets`` are masked.
    """
    content = PageContent(secrets, limits)
    scripts = ("elements.js", "episodes.js", "run.js")
    return write_page(
        path, title=content.masked(record.title), data=lambda: _run(record, content, limits.samples), scripts=scripts
    )


URL_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
IMAGE_TYPE = re.compile(r"image/[a-z0-9.+-]+", re.IGNORECASE)
NO_SECRETS = Redactor([])
BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


class PageContent:
    """Converts the contents of a run to JSON for the page: masked, limited in size, and finite."""

    def __init__(self, secrets: Iterable[str], limits: ContentLimits) -> None:
        self._mask = Redactor(secrets)
        self._image_bytes_left = limits.image_bytes
        self.limits = limits

    def masked(self, text: str) -> str:
        """``text`` without secrets, control characters and direction marks, as valid Unicode."""
        return visible(self._mask(URL_USER.sub(MASK, text)))

    def name(self, text: str) -> str:
        """A key or a tool's name, likewise; a short one is kept even if it equals a secret."""
        return visible(self._mask.name(text))

    def text(self, text: str) -> JSON:
        """A text, limited in size."""
        text = self.masked(text)
        limit = self.limits.text_characters
        return {"text": text[:limit]} | ({"cut": len(text) - limit} if len(text) > limit else {})

    def image(self, block: ImageBlock) -> JSON:
        """An image, or the reason why it is left out."""
        data = "".join(block.data.split())
        left_out = {"left_out": f"{self.masked(block.mime_type)}, {len(data) * 3 // 4:,} bytes"}
        if not (IMAGE_TYPE.fullmatch(block.mime_type) and BASE64.fullmatch(data)):
            return {"left_out": "an image that is not base64 data of an image type"}
        if len(data) > self._image_bytes_left:
            return left_out
        self._image_bytes_left -= len(data)
        return {"image": f"data:{block.mime_type};base64,{data}"}

    def blocks(self, blocks: Iterable[MessageBlock], *, with_calls: bool = False) -> list[JSON]:
        """The parts to show; tool calls and results only ``with_calls``, as transitions show them otherwise."""
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
        """Name and value of each argument: multi-line text unchanged, everything else as JSON."""
        return [[self.name(str(name)), self.text(_plain(value))] for name, value in arguments.items()]

    def setting(self, name: str, value: object) -> str:
        """The value of a setting, masked if its name is secret."""
        if SECRET_NAME.search(name) and value is not None:
            return MASK
        return self.masked(value if isinstance(value, str) else _plain(value))


def _with_text(blocks: Iterable[MessageBlock]) -> Iterator[MessageBlock]:
    """Blocks without the empty ones, which only carry details for an endpoint."""
    return (block for block in blocks if not isinstance(block, TextBlock | ReasoningBlock) or block.text)


def _plain(value: object) -> str:
    if isinstance(value, str) and "\n" in value:
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return json.dumps(plain_json(value, NO_SECRETS), ensure_ascii=False)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _run(record: RunRecord, content: PageContent, limit: int) -> JSON:
    shown = record.samples
    if len(shown) > limit:
        last = len(shown) - 1
        shown = [shown[round(index * last / max(limit - 1, 1))] for index in range(limit)]
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
        "curves": {content.masked(name): _points(points) for name, points in record.curves.items()},
        "provenance": [[name, content.masked(value)] for name, value in record.provenance.items()],
        "records": content.masked(record.records),
        "beside": [_other_run(name, path, content) for name, path in record.beside.items()],
        "returns": _distribution([sample.episode_return for sample in record.samples]),
        "samples": [episode_to_page(sample, content) for sample in shown],
        "numSamples": len(record.samples),
    }


def _points(points: Iterable[Point]) -> list[JSON]:
    return [[point.step, _finite(point.value), _finite(point.low), _finite(point.high)] for point in points]


def _other_run(name: str, path: str | os.PathLike[str], content: PageContent) -> JSON:
    """The rewards of the run that another page shows.

    Raises:
        ValueError: the file is not the page of a run.
    """
    data = read_page(path)
    try:
        rows = [[int(row["step"]), _finite(row["reward"]), int(row["episodes"])] for row in data["steps"]]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{os.fspath(path)} is not the page of a run") from None
    return {"name": content.masked(name), "title": content.masked(str(data.get("title", ""))), "steps": rows}


MAX_BARS = 8


def _distribution(returns: Iterable[float | None]) -> list[JSON]:
    """The distribution of returns: each value with its count, or ranges of equal width if there are many values."""
    given = sorted(value for value in returns if value is not None and math.isfinite(value))
    distinct = Counter(given)
    if len(distinct) <= MAX_BARS:
        return [[value, value, count] for value, count in distinct.items()]
    low, width = given[0], (given[-1] - given[0]) / MAX_BARS
    bins = Counter(min(MAX_BARS - 1, int((value - low) / width)) for value in given)
    return [[low + index * width, low + (index + 1) * width, bins[index]] for index in range(MAX_BARS)]


def _measurement(measured: Measurement | None) -> JSON:
    return measured and {"reward": _finite(measured.reward), "episodes": measured.episodes}


def _step(step: StepRecord, content: PageContent) -> JSON:
    row: dict[str, JSON] = {}
    for column in fields(step):
        value: Mapping[str, int] | float | None = getattr(step, column.name)
        if isinstance(value, Mapping):
            row[column.name] = {content.name(name): count for name, count in value.items()}
        else:
            row[column.name] = _finite(value)
    return row


def episode_to_page(sample: Sample, content: PageContent) -> JSON:
    """An episode as JSON for the page's script."""
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

    Turns of the policy count from 0. The prompt's messages have turn -1; those before an assistant message of the
    prompt have lower numbers.
    """
    turn = -1 - sum(message.role == "assistant" for message in episode.prompt)
    events: list[JSON] = []
    for message in episode.prompt:
        turn += message.role == "assistant"
        events += _message(message.role, turn, content.blocks(message.blocks, with_calls=True))
    for turn, exchange in enumerate(episode.exchanges):
        reply = exchange.reply
        events += _message("assistant", turn, content.blocks(_with_text(exchange.said().blocks)))
        events += (_call(transition, turn, content) for transition in exchange.transitions)
        answered = {transition.action.id for transition in exchange.transitions}
        events += (_unanswered(call, turn, content) for call in reply.tool_calls if call.id not in answered)
        notices = [*([content.text(reply.error)] if reply.error else []), *content.blocks(exchange.notices)]
        events += _message("user", turn, notices)
    return events


def _message(role: str, turn: int, parts: Sequence[JSON]) -> list[JSON]:
    return [{"kind": "message", "role": role, "turn": turn, "parts": parts}] if parts else []


def _call(transition: Transition, turn: int, content: PageContent) -> JSON:
    action, output = transition.action, transition.output
    return {
        "kind": "call",
        "turn": turn,
        "name": content.name(action.name),
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
    return {"kind": "unanswered", "turn": turn, "name": content.name(call.name), "arguments": arguments}
