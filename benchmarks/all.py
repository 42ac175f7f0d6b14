"""Run the speed benchmarks, and print one table of how many times faster ors-gym is than what it stands beside.

    make bench                       about four minutes: small sizes, one round
    make bench ARGS="server client"  some of them
    make bench ARGS=--long           as the figures of the docs were taken

Each benchmark prints its own table as well. Ratios compare figures of one run, so that a busy machine is busy for both.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
Rows = Iterator[tuple[str, float]]


def client(output: str) -> Rows:
    """The last column of each line is our CPU time as a part of the reference client's."""
    for sessions, part in re.findall(r"^ *(\d+) .* (\d+\.\d+)$", output, re.MULTILINE):
        yield f"CPU of a tool call, {sessions} sessions, beside the reference client", 1 / float(part)


def server(output: str) -> Rows:
    """The second figure is the number of calls for each second of CPU."""
    lines = re.findall(r"^(\w+) +(\d+) (reference|ours) +[\d,.]+ +([\d,.]+)", output, re.MULTILINE)
    calls = {(tool, size, kind): float(number.replace(",", "")) for tool, size, kind, number in lines}
    for (tool, size, kind), number in calls.items():
        if kind == "ours":
            yield (
                f"server, {tool}, {size} connections, beside the reference server",
                number / calls[tool, size, "reference"],
            )


def rollouts(output: str) -> Rows:
    """Groups beside TRL's serial adapter, and beside lockstep."""
    yield "256 episodes of slow tools, beside TRL's adapter", float(re.findall(r"times as fast +([\d.]+)", output)[0])
    yield "heavy tail, beside lockstep", float(re.findall(r"no barrier .*: ([\d.]+) times", output)[0])


def vector_env(output: str) -> Rows:
    """Vector environments beside Gymnasium's, and send/recv beside step."""
    for size, reset, step in re.findall(r"times as fast, (\d+).*: reset (\d+), step (\d+)", output):
        yield f"reset of {size} environments, beside SyncVectorEnv", float(reset)
        yield f"step of {size} environments, beside SyncVectorEnv", float(step)
    yield "heavy tail, send/recv beside step", float(re.findall(r"send/recv .*: ([\d.]+) times", output)[0])


def trl_rollouts(output: str) -> Rows:
    """The fifth column is TRL's time of a rollout beside ours."""
    for tool, episodes, ratio in re.findall(
        r"^\| (.+?) \| (\d+) \| [\d.]+ \| [\d.]+ \| ([\d.]+) \|", output, re.MULTILINE
    ):
        yield f"GRPO rollout, {tool}, {episodes} episodes, beside TRL's adapter", float(ratio)


BENCHMARKS: dict[str, tuple[Callable[[str], Rows], str, list[str], list[str]]] = {
    "client": (client, "client_cost.py", ["--rounds", "1", "--calls", "2000", "--sessions", "16", "64"], []),
    "server": (server, "server.py", ["--seconds", "1", "--connections", "16", "--tools", "quick", "plain"], []),
    "rollouts": (rollouts, "rollouts.py", [], []),
    "vector_env": (vector_env, "vector_env.py", [], []),
    "trl_rollouts": (trl_rollouts, "trl_rollouts.py", ["adapters"], ["adapters"]),
}


def main() -> None:
    """Run them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--long", action="store_true", help="all sizes and rounds")
    arguments = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}  # some use the servers of the tests
    table: list[tuple[str, float]] = []
    for name in arguments.names or BENCHMARKS:
        read, file, short, long = BENCHMARKS[name]
        command = [sys.executable, str(HERE / file), *(long if arguments.long else short)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
        print(f"{name}\n{output}", flush=True)
        table += read(output)
    print(f"{'':<74}{'times':>8}")
    for name, ratio in table:
        print(f"{name:<74}{ratio:>8.1f}")


if __name__ == "__main__":
    main()
