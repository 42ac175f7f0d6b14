"""Training on Ray Train while ranks, actors, nodes and the driver are killed: which groups came back, and how soon.

    PYTHONPATH=.:integrations python benchmarks/ray_train_faults.py [--rows 1 2 3]

Each row is ``examples/train_grpo_ray.py`` with two ranks, on two nodes, and four actors on a cluster of three nodes
with one CPU each: 20 updates, 5 batches of 16 groups of 8, a checkpoint after each batch. After the first checkpoint
that Ray Train knows (it polls every 2 s), while at least 32 episodes are running, one thing is killed.

``complete``: all 8 members ended. ``doubled``: groups or episodes that were trained on twice. ``again``: groups that
were trained on after the last checkpoint and replayed from it. ``left``: remaining sessions. ``went on``: seconds from
the kill to the end of the next batch of every rank.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import state
from ray.cluster_utils import Cluster

from tests.support.ors_servers import RunningServer, serve
from tests.support.paths import ROOT
from tests.support.processes import wait_until
from tests.support.ray_clusters import add_node, connected, start_cluster
from tests.support.tiny import Buttons

GROUPS, GROUP_SIZE, BATCHES, UPDATES_PER_BATCH = 16, 8, 5, 4
PATIENCE = 420.0
SNAPSHOT = "checkpoint_manager_snapshot.json"


class Training:
    """One run of the example, in a separate process."""

    def __init__(self, cluster: Cluster, server: RunningServer, *options: str) -> None:
        self.cluster = cluster
        self.server = server
        self.folder = Path(tempfile.mkdtemp(prefix="ors-faults-"))
        steps = str(BATCHES * UPDATES_PER_BATCH)
        given = ["--steps", steps, "--save-steps", str(UPDATES_PER_BATCH), "--actors", "2", "--trajectories"]
        where = ["--address", cluster.address, "--url", server.url, "--storage", str(self.folder)]
        script = str(ROOT / "examples" / "train_grpo_ray.py")
        self.command = [sys.executable, script, *given, *where, "--max-failures", "9", *options]
        self.start()

    def start(self) -> None:
        """Start or resume it."""
        paths = os.pathsep.join([str(ROOT), str(ROOT / "integrations"), os.environ.get("PYTHONPATH", "")])
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,
            )

    def written(self) -> dict[Path, int]:
        """The files of the ranks, with their sizes."""
        return {path: path.stat().st_size for path in self.folder.glob("grpo*.jsonl")}

    def is_in_a_later_batch(self) -> bool:
        """Whether a checkpoint exists and episodes are running."""
        assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
        return (self.folder / "grpo" / SNAPSHOT).exists() and len(self.server.live_sessions) >= 32

    def ranks(self) -> list[dict[str, Any]]:
        """The ranks, as Ray's table of actors has them."""
        return [actor for actor in living() if actor["ActorClassName"] == "RayTrainWorker"]

    def actors(self) -> list[dict[str, Any]]:
        """The rollout actors."""
        return [actor for actor in living() if actor["Name"].startswith("grpo-rank")]

    def lose_node(self, node_id: str) -> None:
        """Kill a node with everything that runs there."""
        node = next(node for node in self.cluster.worker_nodes if node.node_id == node_id)
        there = [actor for actor in living() if actor["Address"]["NodeID"] == node_id]
        self.cluster.remove_node(node, allow_graceful=False)
        for actor in there:  # they would outlive their node for a second
            kill(actor)

    def groups(self, struck: set[int]) -> list[dict[str, Any]]:
        """The groups recorded by the ranks, and whether each belongs to the training that completed.

        Args:
            struck: The processes of the ranks before the kill. Their records are superseded if other ranks continued
                from an earlier step.
        """
        records = [json.loads(line) for path in self.written() for line in path.read_text().splitlines()]
        records.sort(key=lambda record: record["written"])
        groups: dict[str, dict[str, Any]] = {}
        for record in records:
            group = groups.setdefault(record["group"]["id"], {"members": [], "dropped": record["group"]["dropped"]})
            group |= {"step": record["note"]["step"], "old": record["run"]["process"] in struck}
            group["failures"] = [failure["kind"] for failure in record["group"]["failures"]]
            group["members"].append((record["episode_id"], record["stop_reason"]))
        again = min((group["step"] for group in groups.values() if not group["old"]), default=sys.maxsize)
        return [group | {"final": not group["old"] or group["step"] < again} for group in groups.values()]


def living() -> list[dict[str, Any]]:
    """The living actors of the cluster."""
    return [actor for actor in state.actors().values() if actor["State"] == "ALIVE"]


def kill(actor: dict[str, Any]) -> None:
    """Kill the process of an actor."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(actor["Pid"], signal.SIGKILL)


def ray_kill(actor: dict[str, Any]) -> None:
    """Kill an actor as ``ray.kill`` does."""
    named = ray.util.list_named_actors(all_namespaces=True)
    namespace = next(one["namespace"] for one in named if one["name"] == actor["Name"])
    ray.kill(ray.get_actor(actor["Name"], namespace))


def node_without_rank(training: Training) -> str:
    """A node with rollout actors and no rank."""
    taken = {rank["Address"]["NodeID"] for rank in training.ranks()}
    return next(node.node_id for node in training.cluster.worker_nodes if node.node_id not in taken)


def kill_driver(sent: signal.Signals) -> Callable[[Training], None]:
    """Kill the driver, wait until its sessions are gone, and restart it."""

    def strike(training: Training) -> None:
        os.killpg(training.process.pid, sent)
        training.process.wait(120)
        began = time.monotonic()
        wait_until(lambda: not training.server.live_sessions, 120)
        print(f"    without a driver: 0 sessions after {time.monotonic() - began:.1f} s", flush=True)
        training.start()

    return strike


def row(name: str, cluster: Cluster, server: RunningServer, strike: Callable[[Training], Any], *options: str) -> None:
    """Run one line of the table and print it."""
    training = Training(cluster, server, *options)
    try:
        wait_until(training.is_in_a_later_batch, PATIENCE)
        before, processes = training.written(), {rank["Pid"] for rank in training.ranks()}
        struck = time.monotonic()
        strike(training)

        def goes_on() -> bool:
            now = training.written()
            ended = training.process.poll() is not None
            return ended or now.keys() > before.keys() or all(size > before[path] for path, size in now.items())

        wait_until(goes_on, PATIENCE)
        went_on = time.monotonic() - struck
        code = training.process.wait(PATIENCE)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not server.live_sessions, 60)
        groups = training.groups(processes)
        final = [group for group in groups if group["final"]]
        complete = sum(
            not group["dropped"]
            and len(group["members"]) == GROUP_SIZE
            and all(reason != "failed" for _, reason in group["members"])
            for group in final
        )
        episodes = Counter(episode for group in groups for episode, _ in group["members"])
        doubled = sum(count - 1 for count in episodes.values()) + max(0, len(final) - GROUPS * BATCHES)
        failed = Counter(kind for group in final for kind in group["failures"])
        counts = f"{complete:>4} of {GROUPS * BATCHES}{sum(group['dropped'] for group in final):>9}{doubled:>9}"
        counts += f"{len(groups) - len(final):>7}{len(server.live_sessions):>6}{went_on:>9.0f} s"
        retried = ", ".join(f"{kind} {count}" for kind, count in failed.items()) or "none"
        print(f"{name:<38}{counts}  {retried}{'' if code == 0 else f', the driver ended with {code}'}", flush=True)
        if code:
            print((training.folder / "log").read_text()[-3000:], file=sys.stderr)
    finally:
        if training.process.poll() is None:
            os.killpg(training.process.pid, signal.SIGKILL)
        shutil.rmtree(training.folder, ignore_errors=True)


@contextlib.contextmanager
def cluster_of_three() -> Iterator[Cluster]:
    """Three nodes with one CPU in addition to the head."""
    with start_cluster(num_cpus=1) as cluster:
        add_node(cluster, num_cpus=1)
        add_node(cluster, num_cpus=1)
        with connected(cluster):
            yield cluster


ROWS: list[tuple[str, Callable[[Training], Any], tuple[str, ...]]] = [
    ("nothing", lambda training: None, ()),
    ("an actor: ray.kill", lambda training: ray_kill(training.actors()[0]), ()),
    ("an actor: SIGKILL", lambda training: kill(training.actors()[0]), ()),
    ("a node with actors", lambda training: training.lose_node(node_without_rank(training)), ()),
    ("a rank: SIGKILL", lambda training: kill(training.ranks()[1]), ()),
    (
        "a node with a rank and actors",
        lambda training: training.lose_node(training.ranks()[1]["Address"]["NodeID"]),
        (),
    ),
    (
        "2 of 3 nodes, --min-ranks 1",
        lambda training: [
            training.lose_node(node) for node in (node_without_rank(training), training.ranks()[1]["Address"]["NodeID"])
        ],
        ("--min-ranks", "1"),
    ),
    ("the driver: SIGKILL, started again", kill_driver(signal.SIGKILL), ()),
    ("the driver: Ctrl-C, started again", kill_driver(signal.SIGINT), ()),
]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=range(1, len(ROWS) + 1), help="their numbers, from 1")
    wanted = parser.parse_args().rows
    print(f"{'killed':<38}{'complete':>10}{'dropped':>9}{'doubled':>9}{'again':>7}{'left':>6}{'went on':>11}  retried")
    for number in wanted:
        name, strike, options = ROWS[number - 1]
        with serve(Buttons) as server, cluster_of_three() as cluster:
            row(name, cluster, server, strike, *options)


if __name__ == "__main__":
    main()
