"""Episodes on Ray Serve while replicas go from 1 to 4 and back: how many are lost, and where the sessions are.

    PYTHONPATH=. python benchmarks/ray_serve.py [--seconds 20] [--page sessions.html]

A cluster of two nodes. Replicas take four sessions and are wanted to have three; an episode is 12 calls of 0.5 s. First
two episodes at once, then twelve, then two. Prints what became of the episodes, which are not tried again, and writes a
page with the sessions of each replica over time.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from ray import serve

from ors_gym import EpisodeRunner, ORSClient, RolloutLimits, ScriptedPolicy, TaskRef, ToolCall
from ors_gym_ray import serve_app
from tests.support.ors_servers import free_port
from tests.support.ray_clusters import connected, start_cluster
from tests.support.serve_replica import app_factory

ROOT = Path(__file__).resolve().parent.parent
MAX_SESSIONS, MAX_REPLICAS, LOW, HIGH = 4, 4, 2, 12
CALL = ToolCall("work", {"seconds": 0.5})
SAMPLE_SECONDS = 0.2
BACK_SECONDS = 60.0
"""How long it may take to come back to one replica."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The replicas at one time."""

    seconds: float
    wanted: int
    """Episodes at once."""
    replicas: dict[str, tuple[int, bool]]
    """Each one's number of sessions, and whether it is being drained."""


class Load:
    """As many episodes at once as are wanted."""

    def __init__(self, runner: EpisodeRunner) -> None:
        self.wanted = LOW
        self.ends: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._runner = runner
        self._indices = itertools.cycle(range(100))

    async def run(self) -> None:
        """Play until nothing is wanted any more."""
        playing: set[asyncio.Task[None]] = set()
        while self.wanted or playing:
            while len(playing) < self.wanted:
                playing.add(asyncio.create_task(self._play()))
            _, playing = await asyncio.wait(playing, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)

    async def _play(self) -> None:
        trajectory = await self._runner.run_episode(TaskRef("bench", "train", next(self._indices)))
        self.seconds.append(trajectory.seconds)
        failure = trajectory.failure
        self.ends[f"lost: {failure.kind}" if failure else str(trajectory.stop_reason)] += 1
        if failure:
            print(f"  lost: {failure.message}")


async def measure(url: str, seconds: float) -> tuple[Load, list[Sample]]:
    """Play through the phases, and look at the replicas all the while."""
    registry = serve.get_deployment_handle("Registry", "default")
    samples: list[Sample] = []
    began = time.monotonic()
    async with ORSClient(url) as client:
        limits = RolloutLimits(max_concurrent_sessions=HIGH)
        load = Load(EpisodeRunner(client, ScriptedPolicy([CALL] * 12), limits=limits))
        running = asyncio.create_task(load.run())
        while True:
            now = time.monotonic() - began
            overview: list[tuple[str, int, bool]] = await registry.overview.remote()
            samples.append(Sample(now, load.wanted, {name: (count, drained) for name, count, drained in overview}))
            if now > seconds / 4:
                load.wanted = HIGH
            if now > seconds * 5 / 4:
                load.wanted = LOW
                if (len(overview) == 1 and now > seconds * 3 / 2) or now > seconds * 5 / 4 + BACK_SECONDS:
                    load.wanted = 0
                    await running
                    return load, samples
            await asyncio.sleep(SAMPLE_SECONDS)


# -------------------------------------------------------------------- the page

WIDTH, LEFT, LANE, GAP, TOP = 1040, 96, 46, 20, 6

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><title>$title</title>
<style>$style
svg .area { fill-opacity: 0.75; } svg .drained { fill: var(--c1); fill-opacity: 0.75; }
svg .life { fill: var(--faint); } svg .name { fill: var(--ink); }
</style></head><body><main>
<h1>$title</h1><p class="muted">$subtitle</p>
<dl class="headline">$headline</dl>
<section><h2>Sessions of each replica</h2>
<p class="small muted">A replica that is to stop takes no new session and ends with its last one.</p>
<figure><figcaption><span><i class="swatch block" style="background:var(--c5)"></i>episodes at once, as wanted</span>
<span><i class="swatch block" style="background:var(--c0)"></i>takes sessions</span>
<span><i class="swatch block" style="background:var(--c1)"></i>is being drained</span></figcaption>
$chart</figure></section>
</main></body></html>
""")


def draw(samples: Sequence[Sample]) -> str:
    """A lane for the load and one for each replica, in the order in which they came."""
    end = samples[-1].seconds
    names = list(dict.fromkeys(name for sample in samples for name in sample.replicas))

    def x(seconds: float) -> float:
        return LEFT + seconds / end * (WIDTH - LEFT)

    def steps(values: Sequence[int | None], highest: int, bottom: float, style: str) -> str:
        pieces: list[str] = []
        for value, run in itertools.groupby(zip(samples, values, strict=True), lambda each: each[1]):
            if value:
                times = [sample.seconds for sample, _ in run]
                height = value / highest * LANE
                after = next((sample.seconds for sample in samples if sample.seconds > times[-1]), end)
                width = x(after) - x(times[0])
                pieces.append(f"M{x(times[0]):.1f} {bottom:.1f}v{-height:.1f}h{width:.1f}v{height:.1f}z")
        return f'<path {style} shape-rendering="crispEdges" d="{"".join(pieces)}"/>'

    lanes: list[str] = []
    bottom = TOP + LANE
    lanes.append(steps([sample.wanted for sample in samples], HIGH, bottom, 'class="area" style="fill:var(--c5)"'))
    lanes.append(f'<text class="name" x="0" y="{bottom - LANE / 2 + 4}">load</text>')
    lanes.append(f'<text x="{LEFT - 8}" y="{bottom - LANE + 10}" text-anchor="end">{HIGH}</text>')
    for number, name in enumerate(names, 1):
        bottom += LANE + GAP
        seen = [sample for sample in samples if name in sample.replicas]
        first, last = x(seen[0].seconds), x(min(end, seen[-1].seconds + SAMPLE_SECONDS))
        lanes.append(
            f'<rect class="life" x="{first:.1f}" y="{bottom - LANE}" width="{last - first:.1f}" height="{LANE}"/>'
        )
        for drained, style in ((False, 'class="area" style="fill:var(--c0)"'), (True, 'class="drained"')):
            counts = [
                sample.replicas[name][0] if name in sample.replicas and sample.replicas[name][1] is drained else None
                for sample in samples
            ]
            lanes.append(steps(counts, MAX_SESSIONS, bottom, style))
        lanes.append(f'<text class="name" x="0" y="{bottom - LANE / 2 + 4}">replica {number}</text>')
        lanes.append(f'<text x="{LEFT - 8}" y="{bottom - LANE + 10}" text-anchor="end">{MAX_SESSIONS}</text>')
        lanes.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH}" y1="{bottom}" y2="{bottom}"/>')
    tick = next(step for step in (5, 10, 20, 60, 300) if end / step <= 10)
    for seconds in range(0, int(end) + 1, tick):
        lanes.append(f'<line class="rule" x1="{x(seconds):.1f}" x2="{x(seconds):.1f}" y1="{TOP}" y2="{bottom}"/>')
        lanes.append(f'<text x="{x(seconds):.1f}" y="{bottom + 18}" text-anchor="middle">{seconds} s</text>')
    label = "Sessions of each replica over time"
    return f'<svg viewBox="0 0 {WIDTH} {bottom + 24}" role="img" aria-label="{label}">{"".join(lanes)}</svg>'


def page(load: Load, samples: Sequence[Sample]) -> str:
    """All of it, in the dress of the library's own reports."""
    report = resources.files("ors_gym").joinpath("report.html").read_text(encoding="utf-8")
    style = report.partition("<style>")[2].partition("</style>")[0]
    figures = [
        ("Episodes", f"{load.ends.total()}", f"{load.ends.total() * 12} tool calls"),
        ("Lost", f"{load.ends.total() - load.ends['finished']}", "none was tried again"),
        ("Replicas", f"1 → {most_taking(samples)} → {len(samples[-1].replicas)}", "that take sessions"),
        ("Drained", f"{num_drained(samples)}", "replicas, each to its last session"),
    ]
    headline = "".join(
        f'<div><dt>{name}</dt><dd>{value}<span class="note">{note}</span></dd></div>' for name, value, note in figures
    )
    return PAGE.substitute(
        title="ORS on Ray Serve: one replica, four, and one again",
        subtitle=html.escape(
            f"A replica takes {MAX_SESSIONS} sessions and is wanted to have three. {LOW} episodes at once, "
            f"then {HIGH}, then {LOW}."
        ),
        style=style,
        headline=headline,
        chart=draw(samples),
    )


def most_taking(samples: Sequence[Sample]) -> int:
    """How many replicas took sessions at the same time."""
    return max(sum(not drained for _, drained in sample.replicas.values()) for sample in samples)


def num_drained(samples: Sequence[Sample]) -> int:
    """How many replicas were drained."""
    return len({name for sample in samples for name, (_, drained) in sample.replicas.items() if drained})


def main() -> None:
    """Start a cluster and Serve, play, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of high load (default: %(default)s)")
    parser.add_argument("--page", type=Path, help="where to draw it")
    arguments = parser.parse_args()
    port = free_port()
    with start_cluster() as cluster, connected(cluster):
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        application = serve_app(
            app_factory,
            max_sessions_per_replica=MAX_SESSIONS,
            target_sessions_per_replica=3,
            max_replicas=MAX_REPLICAS,
            downscale_delay_seconds=0.5,
            metrics_seconds=0.5,
            replica_options={"num_cpus": 0, "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}}},
        )
        serve.run(application)
        load, samples = asyncio.run(measure(f"http://127.0.0.1:{port}", arguments.seconds))
        serve.shutdown()
    lost = load.ends.total() - load.ends["finished"]
    print(f"episodes {load.ends.total()}, lost {lost}: {dict(load.ends)}")
    print(f"replicas 1 -> {most_taking(samples)} -> {len(samples[-1].replicas)}, {num_drained(samples)} drained")
    print(f"an episode took {sorted(load.seconds)[len(load.seconds) // 2]:.2f} s (median), at best {12 * 0.5:.2f}")
    if arguments.page:
        arguments.page.write_text(page(load, samples), encoding="utf-8")
        print(arguments.page.resolve().as_uri())


if __name__ == "__main__":
    main()
