"""Try every door of the project, and print what held.

python -m tests.hostile [--door NAME …] [--attempts 300] [--seed 0]
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time

from tests.hostile.doors import DOORS
from tests.hostile.inputs import Inputs


def main() -> None:
    """Print a table, then what broke; the exit code is 1 if anything did."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--door", action="append", choices=list(DOORS), help="only this one; may be repeated")
    parser.add_argument("--attempts", type=int, default=300, help="random attempts per door (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what is said of damaged input is right, and long
    broke: list[str] = []
    print(f"{'door':<10} {'attempts':>9} {'held':>9} {'broke':>6} {'seconds':>8}")
    for name in arguments.door or DOORS:
        began = time.monotonic()
        outcome = asyncio.run(DOORS[name](Inputs(arguments.seed), arguments.attempts))
        seconds = time.monotonic() - began
        counts = f"{outcome.attempts:>9,} {outcome.held:>9,} {len(outcome.broke):>6,}"
        print(f"{name:<10} {counts} {seconds:>8.1f}", flush=True)
        broke += [f"{name}: {each}" for each in outcome.broke]
    print(*broke[:100], sep="\n")
    sys.exit(bool(broke))


if __name__ == "__main__":
    main()
