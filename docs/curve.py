"""Draw the learning curve of a run for the start page, from the page that the demo writes.

make demo
python docs/curve.py runs/demo/report.html
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import fmean

TARGET = Path(__file__).parent / "_static" / "curve.svg"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 300, 52, 16, 16, 44


def main() -> None:
    """Read the page's record and write the drawing."""
    page = Path(sys.argv[1]).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="run">(.*?)</script>', page, re.DOTALL)
    if found is None:
        sys.exit(f"{sys.argv[1]} is not a page of a run")
    run = json.loads(found[1])
    points = [(step["step"], step["reward"]) for step in run["steps"] if step["reward"] is not None]
    TARGET.write_text(drawing(points, run["baseline"]["reward"]), encoding="utf-8")


def drawing(points: list[tuple[int, float]], baseline: float) -> str:
    """The reward of each batch, its mean over ten, and the baseline."""
    last = points[-1][0]

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(reward: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - reward)

    def path(values: list[tuple[int, float]]) -> str:
        return " ".join(f"{x(step):.1f},{y(reward):.1f}" for step, reward in values)

    means = [(step, fmean(value for _, value in points[max(0, i - 9) : i + 1])) for i, (step, _) in enumerate(points)]
    grid = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#8885" stroke-width="1"/>'
        f'<text x="{LEFT - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
        for v in (0, 0.25, 0.5, 0.75, 1)
    )
    ticks = "".join(
        f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>'
        for step in range(0, last + 1, 50)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="#888">{grid}{ticks}'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">updates</text>'
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"mean reward of a batch</text>"
        f'<polyline points="{path(points)}" fill="none" stroke="#7aa7d9" stroke-width="1" opacity="0.6"/>'
        f'<polyline points="{path(means)}" fill="none" stroke="#2a78c8" stroke-width="2.5"/>'
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(baseline):.1f}" y2="{y(baseline):.1f}" stroke="#d08030" '
        f'stroke-width="1.5" stroke-dasharray="5 4"/>'
        f'<text x="{WIDTH - RIGHT}" y="{y(baseline) - 6:.1f}" text-anchor="end" fill="#d08030">a random policy: '
        f"{baseline:.2f}</text></svg>\n"
    )


if __name__ == "__main__":
    main()
