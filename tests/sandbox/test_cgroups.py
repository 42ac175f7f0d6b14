"""Control groups of this machine. Their limits, which few machines delegate, are written to a directory that stands in
for one; ``tests/cgroups`` has the kernel's."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from ors_gym_server.sandbox import SandboxLimits
from ors_gym_server.sandbox.cgroups import ControlGroup, make, places, remove_abandoned

LIMITS = SandboxLimits(memory_bytes=64 * 2**20, processes=7)


def test_what_joined_a_group_is_killed_with_it():
    for place in places():
        directory = place / f"ors-gym-{os.getpid()}-test"
        with suppress(OSError):
            directory.mkdir()
            if (directory / "cgroup.kill").exists():  # of Linux 5.14 and later
                break
            directory.rmdir()
    else:
        pytest.skip("no control group of version 2 can be made on this machine: it takes root or delegation")
    group = ControlGroup(directory)
    try:
        joins = ["/bin/sh", "-c", f'echo $$ > "{group.joining}"; echo joined; exec sleep 60']
        with subprocess.Popen(joins, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"joined\n"
            group.remove()
            assert not group.gone  # not while a process is in it
            group.kill()
            assert process.wait(60) == -9
    finally:
        group.remove()
    assert group.gone


def test_what_is_delegated_is_limited(tmp_path):
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    group = make(tmp_path, "ors-gym-1-test", LIMITS)
    assert group == ControlGroup(tmp_path / "ors-gym-1-test", memory=True, pids=True)
    assert {file.name: file.read_text() for file in group.directory.iterdir()} == {
        "memory.max": str(64 * 2**20),
        "memory.swap.max": "0",
        "pids.max": "7",
    }


@pytest.mark.parametrize("delegated", ["", "cpu io\n", None])
def test_what_is_not_delegated_makes_no_group(tmp_path, delegated):
    if delegated is not None:
        (tmp_path / "cgroup.subtree_control").write_text(delegated)
    assert make(tmp_path, "ors-gym-1-test", LIMITS) is None
    assert not (tmp_path / "ors-gym-1-test").exists()


def test_groups_of_processes_that_are_gone_are_removed(tmp_path):
    with subprocess.Popen(["true"]) as process:
        process.wait()
    kept = [tmp_path / f"ors-gym-{os.getpid()}-0", tmp_path / "another"]
    for directory in (*kept, tmp_path / f"ors-gym-{process.pid}-0"):
        directory.mkdir()
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    remove_abandoned(Path("/nowhere"))
