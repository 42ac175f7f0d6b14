"""What actors say reaches the driver of a pool that starts Ray itself."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.ors_servers import RunningServer
from tests.support.paths import ROOT

DRIVER = """
import asyncio, logging, sys
from ors_gym import Reply
from ors_gym_ray import RolloutPool

class Says:
    async def act(self, turn):
        print("the policy speaks")
        logging.getLogger("mine").warning("the policy warns")
        return Reply(text="enough")

async def main():
    with RolloutPool(sys.argv[1], env_name="counter", policy=Says(), policy_placement="actors", name="probe") as pool:
        async for group in pool.run_groups([2], 1):
            pass
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def test_what_an_actor_prints_and_logs_reaches_the_driver_under_the_pools_name(counter_server: RunningServer):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'integrations'}"}
    command = [sys.executable, "-c", DRIVER, counter_server.url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    missing = {"the policy speaks", "the policy warns"}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        while missing:
            line = driver.stdout.readline()
            assert line, f"the driver ended, and none of its actors' lines had {missing}"
            missing -= {words for words in missing if words in line and "(rollouts probe-" in line}
        driver.stdin.close()
        driver.stdout.read()
    assert driver.returncode == 0
