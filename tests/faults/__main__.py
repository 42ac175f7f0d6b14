"""Break what calls and groups stand on, many times, and count what ran twice, was lost, or was left behind.

python -m tests.faults [calls] [rollouts] [ray] [--calls 4000] [--groups 48] [--seed 0]
"""

from __future__ import annotations

import argparse
import logging
import sys

from tests.faults import call_campaign, rollout_campaign
from tests.faults.groups import HEAD, row

DOORS = ("calls", "rollouts", "ray")


def main() -> None:
    """Print a table for each door; the exit code is 1 if anything ran twice or was left."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("door", nargs="*", metavar="DOOR", help=f"of {', '.join(DOORS)} (default: calls and rollouts)")
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--groups", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable()
    broke: list[str] = []
    doors = arguments.door or DOORS[:2]
    if not set(doors) <= set(DOORS):
        parser.error(f"the doors are {', '.join(DOORS)}")
    if "calls" in doors:
        for server in ({}, {"named": True}, {"ours": True}):
            calls = call_campaign.Campaign(arguments.calls, arguments.seed, **server).run()
            print(f"\nserver: {', '.join(server) or 'reference'}\n{calls.table()}", flush=True)
            broke += [wrong for each in calls.rows.values() for wrong in each.wrong]
            twice = sum(each.ran_twice + each.misjudged for each in calls.rows.values())
            broke += [f"calls: {twice} ran twice or were misjudged, {calls.leaked} left"] * bool(twice + calls.leaked)
    for door in [door for door in doors if door != "calls"]:
        print(f"\n{door}\n{HEAD}")
        if door == "ray":
            from tests.faults import ray_campaign

            tallies = ray_campaign.campaign(arguments.groups)
        else:
            tallies = rollout_campaign.campaign(arguments.groups, arguments.seed)
        for name, tally in tallies:
            print(row(name, tally), flush=True)
            broke += [f"{door}, {name}: {wrong}" for wrong in tally.wrong]
            bad = tally.doubled + tally.sessions_left
            broke += [f"{door}, {name}: {tally.doubled} came twice, {tally.sessions_left} left"] * bool(bad)
    print(*broke[:100], sep="\n")
    sys.exit(bool(broke))


if __name__ == "__main__":
    main()
