"""Progress of a run on the terminal.

On a terminal, a few lines at the bottom are redrawn, and the run's own output scrolls above them. Elsewhere (a file, a
pipe, CI) plain lines are written, rarely enough to keep a log readable::

    with RunProgress("GRPO on wordle") as progress:
        with progress.phase("Starting the server"):
            ...
        progress.steps(200)
        for step in ...:
            progress.update(step, reward=0.4, episodes=128, failures={"connection": 1})
        progress.finish("The report is at report.html")
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ors_gym.redaction import visible

__all__ = ["Phase", "RunProgress"]

PLAIN_LINE_EVERY_SECONDS = 10.0
RECENT_STEPS = 20
"""Number of recent steps from which speed and remaining time are estimated."""
SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 32


class Phase:
    """A phase in progress, with the share done from 0 to 1 if it is known."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = time.monotonic()
        self.share: float | None = None

    def advance_to(self, share: float) -> None:
        """Set the share of the phase that is done, from 0 to 1."""
        self.share = min(max(share, 0.0), 1.0)

    @property
    def seconds(self) -> float:
        """Elapsed seconds."""
        return time.monotonic() - self.began


class _Steps:
    """The training steps so far. Shared with the display's thread, so values are replaced rather than mutated."""

    def __init__(self, total: int | None, name: str, unit: str) -> None:
        self.total = total
        self.name = name
        self.unit = unit
        self.began = time.monotonic()
        self.step = 0
        self.reward: float | None = None
        self.sparkline = ""
        self.episodes = 0
        self.failures: Mapping[str, int] = {}
        self.estimates: Mapping[str, str] = {}
        self.episodes_per_second: float | None = None
        self.seconds_per_step: float | None = None
        self.updated = self.began
        self._rewards: list[float] = []
        self._recent = deque([(self.began, 0, 0)], maxlen=RECENT_STEPS + 1)  # time, step, episodes so far

    def update(self, step: int, reward: float | None, episodes: int, failures: Mapping[str, int]) -> None:
        now = time.monotonic()
        self.failures = Counter(self.failures) + Counter(failures)
        self.episodes += episodes
        self.reward = reward if reward is not None and math.isfinite(reward) else None
        if self.reward is not None:
            self._rewards.append(self.reward)
            self.sparkline = sparkline(self._rewards)
        self._recent.append((now, step, self.episodes))
        then, step_then, episodes_then = self._recent[0]
        if now > then:
            self.episodes_per_second = (self.episodes - episodes_then) / (now - then)
        if step > step_then:
            self.seconds_per_step = (now - then) / (step - step_then)
        self.step, self.updated = step, now

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def seconds_left(self) -> float | None:
        if self.total is None or self.seconds_per_step is None:
            return None
        since_update = time.monotonic() - self.updated
        return max(0.0, (self.total - self.step) * self.seconds_per_step - since_update)

    def facts(self) -> dict[str, str]:
        """The numbers as text, by name; names may come from servers and models."""
        facts = dict(self.estimates)
        if not facts:
            none = "none in the last batch" if self._rewards else "none given yet"
            facts["reward"] = none if self.reward is None else f"{self.reward:.3f}"
        speed = "" if self.episodes_per_second is None else f", {self.episodes_per_second:,.1f}/s"
        facts["episodes"] = f"{self.episodes:,}{speed}"
        kinds = (f"{kind} {count:,}" for kind, count in sorted(self.failures.items(), key=lambda item: -item[1]))
        facts["failures"] = ", ".join(kinds) or "none"
        return {visible(name): visible(fact) for name, fact in facts.items()}


class RunProgress:
    """The display of one run, as a context manager that restores the terminal on exit.

    ``live`` selects redrawing lines in place; by default only on a capable terminal.
    """

    def __init__(self, title: str, *, console: Console | None = None, live: bool | None = None) -> None:
        self.title = visible(title)
        self.console = console or Console(highlight=False)
        if live is None:  # console.is_terminal is true in a pipe with FORCE_COLOR
            live = self.console.file.isatty() and not self.console.is_dumb_terminal
            live = live and not self.console.options.ascii_only
        self._spinner = Spinner("dots", style="cyan")
        self._phase: Phase | None = None
        self._steps: _Steps | None = None
        self._next_plain_line = 0.0
        self._live: Live | None = None
        if live:
            self._live = Live(console=self.console, get_renderable=self._render, transient=True, refresh_per_second=5)

    def __enter__(self) -> Self:
        self._print(Text(self.title, style="bold"))
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._end_steps(completed=kind is None)
        finally:
            if self._live is not None:
                self._live.stop()

    @contextmanager
    def phase(self, name: str) -> Generator[Phase, None, None]:
        """Show ``name`` while the block runs, then its duration."""
        name = visible(name)
        outer, self._phase = self._phase, Phase(name)
        phase = self._phase
        if self._live is None:
            self._print(Text(f"{name} ..."))
        completed = False
        try:
            yield phase
            completed = True
        finally:
            self._phase = outer
            if self._live is not None:
                self._print(_ended(name, phase.seconds, completed))
            elif not completed:
                self._print(Text(f"{name}: did not complete"))
            elif phase.seconds >= 1:
                self._print(Text(f"{name}: took {duration(phase.seconds)}"))

    def steps(self, total: int | None = None, *, name: str = "Training", unit: str = "step") -> None:
        """Start the main part of the run: ``total`` steps, if known, displayed as ``name`` and counted in ``unit``."""
        self._steps = _Steps(total, visible(name), visible(unit))
        self._next_plain_line = 0.0

    def update(
        self,
        step: int,
        *,
        reward: float | None = None,
        episodes: int = 0,
        failures: Mapping[str, int] | None = None,
        estimates: Mapping[str, str] | None = None,
    ) -> None:
        """Report the end of ``step`` (from 1): mean reward, number of episodes, failures by kind.

        ``estimates`` are shown by name instead of the reward.
        """
        if self._steps is None:
            raise RuntimeError("update() before steps(): call steps() first")
        self._steps.estimates = estimates or self._steps.estimates
        self._steps.update(step, reward, episodes, failures or {})
        if self._live is None and (time.monotonic() >= self._next_plain_line or step == self._steps.total):
            self._next_plain_line = time.monotonic() + PLAIN_LINE_EVERY_SECONDS
            self._print(Text(self._plain_line(self._steps)))

    def finish(self, message: str = "") -> None:
        """End the steps: leave their numbers on the screen, with ``message`` below them."""
        self._end_steps(completed=True)
        if message:
            self._print(Text(visible(message)))

    def _print(self, text: RenderableType) -> None:
        self.console.print(text, soft_wrap=True)

    def _end_steps(self, *, completed: bool) -> None:
        steps, self._steps = self._steps, None
        if steps is None:
            return
        if self._live is not None:
            self._print(_ended(f"{steps.name}, {steps.step:,} {steps.unit}s", steps.seconds, completed))
            self.console.print(_numbers(steps))
        elif not completed:
            self._print(Text(f"Stopped after {steps.step:,} {steps.unit}s: {self._plain_line(steps)}"))

    @staticmethod
    def _plain_line(steps: _Steps) -> str:
        of = "" if steps.total is None else f"/{steps.total}"
        line = f"{steps.unit} {steps.step}{of}  " + "  ".join(f"{name}: {fact}" for name, fact in steps.facts().items())
        left = steps.seconds_left
        return line + (f"  left: {duration(left)}" if left else "")

    def _render(self) -> RenderableType:
        """The live lines. Also called by the display's thread."""
        lines: list[RenderableType] = []
        phase, steps = self._phase, self._steps
        if phase is not None:
            lines.append(self._bar_line(phase.name, phase.share, duration(phase.seconds)))
        if steps is not None:
            share = steps.step / steps.total if steps.total else None
            of = "" if steps.total is None else f"/{steps.total:,}"
            left = steps.seconds_left
            clock = duration(steps.seconds) + ("" if left is None else f", {duration(left)} left")
            lines.append(self._bar_line(steps.name, share, f"{steps.unit} {steps.step:,}{of}   {clock}"))
            lines.append(_numbers(steps))
        return Group(*lines)

    def _bar_line(self, name: str, share: float | None, note: str) -> RenderableType:
        line = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [self._spinner, Text(name)]
        if share is not None:
            cells.append(ProgressBar(total=1.0, completed=share, width=32))
        line.add_row(*cells, Text(note, style="dim"))
        return line


def _ended(name: str, seconds: float, completed: bool) -> Text:
    mark = ("✓ ", "green") if completed else ("✗ ", "red")
    return Text.assemble(mark, name, (f"  {duration(seconds)}", "dim"))


def _numbers(steps: _Steps) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, fact in steps.facts().items():
        style = "red" if name == "failures" and steps.failures else ""
        extra = ("  " + steps.sparkline, "cyan") if name == "reward" else ""
        table.add_row(Text(f"  {name}", style="dim"), Text.assemble((fact, style), extra))
    return table


def sparkline(values: Sequence[float], width: int = SPARKLINE_WIDTH) -> str:
    """``values`` from first to last in at most ``width`` characters, each the mean of an equal share of them.

    Drawn from 0, or from the lowest value below 0, so that noise does not look like progress.
    """
    columns = min(width, len(values))
    edges = [round(column * len(values) / columns) for column in range(columns + 1)] if columns else []
    means = [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    low = min(low, 0.0)
    span = high - low
    return "".join(SPARKS[round((mean - low) / span * (len(SPARKS) - 1)) if span > 0 else 0] for mean in means)


def duration(seconds: float) -> str:
    """Seconds as readable text: ``2.5 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
