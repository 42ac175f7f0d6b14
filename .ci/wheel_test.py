"""Build the wheel, and use it as people do: with each extra alone, in a fresh environment, outside the repository.

    python .ci/wheel_test.py                   # every extra, with the versions of constraints/locked.txt
    python .ci/wheel_test.py --lowest ray      # with the lowest versions that pyproject.toml declares

Where torch is needed, the Makefile chooses it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
TORCH = ("trl", "demo", "all")
"""The extras that bring it."""

PLAY = """
import sys, gymnasium as gym, ors_gym
env = gym.make("ors_gym/ORS-v0", url=sys.argv[1], env_name="buttons", split="train")
env.reset(seed=0)
color = env.step({"name": "look", "input": {}})[0].split()[2]
assert env.step({"name": "press", "input": {"color": color}})[1:3] == (1.0, True)
env.close()
"""
POOL = """
import asyncio, sys
from ors_gym import RandomPolicy
from ors_gym_ray import RolloutPool
async def main():
    with RolloutPool(sys.argv[1], env_name="buttons", num_actors=2, episodes_per_actor=4) as pool:
        groups = [group async for group in pool.run_groups(range(4), 2, policy=RandomPolicy())]
    assert [len(group.members) for group in groups] == [2] * 4
asyncio.run(main())
"""
SERVE = """
import sys, httpx
from ray import serve
from ors_gym_ray import serve_app
def make():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})
    app.num_sessions = 0
    return app
serve.start(http_options={"port": int(sys.argv[2])})
serve.run(serve_app(make, max_sessions_per_replica=4, replica_options={"num_cpus": 0.1}))
assert httpx.get(f"http://127.0.0.1:{sys.argv[2]}/", timeout=30).text == "here"
serve.shutdown()
"""
SANDBOX = """
import asyncio
from ors_gym_server.sandbox import LocalSandbox
async def main():
    async with LocalSandbox() as sandbox:
        result = await sandbox.run("echo here")
        assert result.stdout == "here\\n", result
asyncio.run(main())
"""
OPENENV = """
import asyncio
import gymnasium as gym
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from ors_gym_server import create_app, from_openenv
class Number(Action):
    number: int
class Guess(Environment[Number, Observation, State]):
    def reset(self, seed=None, **options):
        return Observation(done=False, reward=None)
    def step(self, action, **options):
        return Observation(done=True, reward=float(action.number == 7))
    @property
    def state(self):
        return State()
guess = from_openenv(Guess, action=Number)
episode = guess(guess.get_task("train", 0))
async def main():
    await episode.setup()
    assert (await episode.call_tool(guess.list_tools().names[0], {"number": 7})).reward == 1.0
    await episode.teardown()
asyncio.run(main())
"""
INSPECT = """
import sys
from inspect_ai import eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model
def act(messages, tools, choice, config):
    looked = [message for message in messages if message.role == "tool"]
    name, input = ("press", {"color": looked[0].text.split()[2]}) if looked else ("look", {})
    output = ModelOutput.for_tool_call("model", name, input)
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return output
[log] = eval(
    "ors_gym_inspect/ors_task",  # found by the entry point
    task_args={"url": sys.argv[1], "env_name": "buttons", "limit": 4},
    model=get_model("mockllm/model", custom_outputs=act), display="none", log_dir="logs",
)
assert log.results.scores[0].metrics["mean"].value == 1.0, log
"""
DATASET = """
from ors_gym.reporting import to_dataset
assert len(to_dataset([])) == 0
"""
ONE_STEP = "--steps 1 --prompts-per-step 2 --group-size 2 --baseline-episodes 2 --output run"
USES: dict[str, list[str]] = {
    "": [PLAY, "ors-gym check URL --env buttons", "ors-gym rollout URL --env buttons --episodes 4"],
    "server": [PLAY, "ors-gym new lake --from gym:FrozenLake-v1", "ors-gym gates lake"],
    "ray": [PLAY, POOL],
    "serve": [SERVE],
    "trl": [PLAY, f"python train_grpo.py --no-ray --url URL --env buttons {ONE_STEP}"],
    "openenv": [OPENENV],
    "sandbox": [SANDBOX],
    "eval": ["ors-gym eval URL --env buttons --model random --sample 8 --split test --out run"],
    "datasets": [DATASET],
    "inspect": [
        INSPECT,
        "ors-gym eval URL --env buttons --model random --sample 8 --split test --out run",
        "ors-gym inspect run",
    ],
    "demo": [f"python train_grpo.py {ONE_STEP}"],
    "all": [PLAY, POOL, OPENENV, f"python train_grpo.py {ONE_STEP}", "ors-gym new game", "ors-gym gates game"],
}
"""What is done with each extra: a script, which is given the server's address and a free port, or a command."""


def run(*command: str | Path, cwd: Path, **variables: str) -> None:
    """Run a command that knows nothing of the repository; its output is shown only if it fails."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_", "VIRTUAL_ENV"))}
    environment = {**own, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", **variables}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}failed: {done.returncode}")


def environment_with(extra: str, wheel: Path, folder: Path, *, lowest: bool) -> Path:
    """A fresh environment with the wheel and one extra; its folder of programs."""
    environment = folder / f"env-{extra or 'core'}"
    if extra in TORCH:
        run("make", "-s", f"VENV={environment}", f"PYTHON={sys.executable}", f"{environment}/.torch", cwd=ROOT)
    else:
        run(UV, "venv", "--quiet", "--python", sys.executable, environment, cwd=folder)
    locked = ROOT / f"constraints/{'inspect' if extra == 'inspect' else 'locked'}.txt"
    versions = ["--resolution", "lowest-direct"] if lowest else ["--constraint", locked]
    wanted = f"ors-gym[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    run(UV, "pip", "install", "--quiet", "--python", environment, *versions, wanted, cwd=folder)
    return environment / "bin"


def use(extra: str, programs: Path, folder: Path, url: str) -> None:
    """Do with an environment what its extra is for."""
    place = folder / (extra or "core")
    shutil.copytree(ROOT / "examples", place)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    for number, task in enumerate(USES[extra]):
        if task.startswith("\n"):
            script = place / f"script_{number}.py"
            script.write_text(task)
            run(programs / "python", script, url, str(free_port()), cwd=place, PATH=path)
        else:
            run("sh", "-ec", task.replace("URL", url), cwd=place, PATH=path)


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def wait_for(url: str) -> None:
    """Wait until a server answers there."""
    while True:
        with contextlib.suppress(OSError), urlopen(f"{url}/health"):
            return
        time.sleep(0.1)


def main() -> None:
    """Try the extras that are named, or all."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    known = ["", *(name for name in extras if name not in ("dev", "test"))]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", default=known, help='"" is the core alone (default: all)')
    parser.add_argument("--lowest", action="store_true", help="install the lowest versions that are declared")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ors-gym-wheel-") as name:
        folder = Path(name)
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
        wheel = next(folder.glob("*.whl"))
        server = environment_with("server", wheel, folder, lowest=options.lowest)
        url = f"http://127.0.0.1:{free_port()}"
        buttons = [str(server / "python"), str(ROOT / "examples/buttons.py"), "--port", url.rpartition(":")[2]]
        with subprocess.Popen(buttons, cwd=folder, stdout=subprocess.DEVNULL) as serving:
            try:
                wait_for(url)
                for extra in options.extras:
                    started = time.monotonic()
                    programs = (
                        server if extra == "server" else environment_with(extra, wheel, folder, lowest=options.lowest)
                    )
                    use(extra, programs, folder, url)
                    print(
                        f"{'ors-gym' + (f'[{extra}]' if extra else ''):20} {time.monotonic() - started:4.0f} s",
                        flush=True,
                    )
                    if extra != "server":
                        shutil.rmtree(programs.parent)
            finally:
                serving.terminate()
    print(f"{len(options.extras)} passed, 0 failed")


if __name__ == "__main__":
    main()
