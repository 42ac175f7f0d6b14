"""Control groups of this machine, where it lets us make some; version 2's files, whose controllers few machines give
away, are also written to a directory that stands in for one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ors_gym_server.sandbox import SandboxLimits
from ors_gym_server.sandbox.cgroups import ControlGroup, Hierarchy, hierarchies, processes, remove_abandoned

LIMITS = SandboxLimits(memory_bytes=64 * 2**20, processes=7)


@pytest.mark.parametrize("version", [1, 2])
def test_what_joined_a_group_is_killed_with_it(version):
    for hierarchy in hierarchies():
        directory = hierarchy.own / f"ors-gym-{os.getpid()}-test"
        if hierarchy.version == version and os.access(hierarchy.own, os.W_OK):
            break
    else:
        pytest.skip(f"no control group of version {version} can be made on this machine")
    directory.mkdir()
    group = ControlGroup((directory,))
    try:
        joins = ["/bin/sh", "-c", f'echo $$ > "{group.joining[0]}"; echo joined; exec sleep 60']
        with subprocess.Popen(joins, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"joined\n"
            assert processes(directory) == [process.pid]
            group.remove()
            assert not group.gone  # not while somebody is in it
            group.kill()
            assert process.wait(10) == -9
    finally:
        group.remove()
    assert group.gone


def test_the_limits_of_a_group_are_the_kernels():
    group = ControlGroup.create(LIMITS)
    if not group.directories:
        pytest.skip("no control group can be made on this machine")
    try:
        written = {
            file.name: file.read_text().strip()
            for directory in group.directories
            for file in directory.iterdir()
            if file.name in ("memory.max", "memory.limit_in_bytes", "pids.max")
        }
        assert ("7" in written.values()) == group.pids
        assert (str(LIMITS.memory_bytes) in written.values()) == group.memory
    finally:
        group.remove()
    assert group.gone


def test_version_2_is_spoken_beside_our_own_group_where_not_below_it(tmp_path):
    own = tmp_path / "service"
    own.touch()  # nothing can be made below it
    hierarchy = Hierarchy(own, tmp_path, 2, frozenset({"cpu", "memory", "pids"}))
    made = hierarchy.make("ors-gym-1-test", ["memory", "pids"], LIMITS)
    assert made == tmp_path / "ors-gym-1-test"
    assert {file.name: file.read_text() for file in made.iterdir()} == {
        "memory.max": str(64 * 2**20),
        "memory.swap.max": "0",
        "pids.max": "7",
    }
    assert Hierarchy(own, own, 2, frozenset()).make("ors-gym-1-test", ["memory"], LIMITS) is None


def test_groups_of_processes_that_are_gone_are_removed(tmp_path):
    with subprocess.Popen(["true"]) as process:
        process.wait()
    kept = [tmp_path / f"ors-gym-{os.getpid()}-0", tmp_path / "another"]
    for directory in (*kept, tmp_path / f"ors-gym-{process.pid}-0"):
        directory.mkdir()
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    remove_abandoned(Path("/nowhere"))
