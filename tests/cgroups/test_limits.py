"""The limits of control groups, in the kernel; a service manager must delegate them: ``make test-cgroups``."""

from __future__ import annotations

from ors_gym_server.sandbox import SandboxLimits
from ors_gym_server.sandbox.cgroups import ControlGroup

LIMITS = SandboxLimits(memory_bytes=64 * 2**20, processes=7)


def test_the_limits_of_a_group_are_the_kernels():
    group = ControlGroup.create(LIMITS)
    assert group.directory is not None, "no control group with limits can be made here: none is delegated"
    try:
        read = {name: (group.directory / name).read_text().strip() for name in ("memory.max", "pids.max")}
        assert read == {"memory.max": str(LIMITS.memory_bytes), "pids.max": "7"}
        assert group.memory
        assert group.pids
    finally:
        group.remove()
    assert group.gone
