"""Run README's commands in order, in a copy of the repository, from an environment that knows nothing of this one.

What a test cannot have is replaced: the ports, the endpoint of a model, and the length of the demo. `make test` is left
out, for it is what else is run.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.chat_server import says, serve_chat  # noqa: E402

KEPT = re.compile(r"HOME|LANG|LC_.*|.*_proxy|PIP_.*|UV_.*|SSL_CERT_.*|REQUESTS_CA_BUNDLE", re.IGNORECASE)
DEMO = "--steps 2 --baseline-episodes 4"
HELPERS = """
set -e
serving() {  # start a server, wait until it says where, end it
    "$@" >served.txt & until grep -q "Serving at" served.txt; do kill -0 $!; sleep 0.2; done
    kill $!; wait $! || true
}
listening() {  # wait until something listens at the port; it was started last, and ends with this script
    trap "kill $!" EXIT
    until python -c "import socket; socket.create_connection(('127.0.0.1', $1))" 2>/dev/null; do sleep 0.2; done
}
"""


def commands() -> list[str]:
    """The lines of README's shell blocks, but for `make test`."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line != "make test"]


def script(endpoint: str) -> str:
    """All of them, as one script."""
    lines = [HELPERS]
    for command in commands():
        lines.append(f"echo {sh_quoted('$ ' + command)}")
        if command.startswith("ors-gym serve"):
            command = f"serving {command}"
        elif command.startswith("make demo"):
            command += f' ARGS="{DEMO}"'
        elif command.endswith("&"):
            port = command.split("--port")[1].split()[0]
            command += f"\nlistening {port}"
        lines.append(command)
    whole = "\n".join(lines).replace("http://127.0.0.1:8000/v1", endpoint)
    for port in sorted(set(re.findall(r"\b80[89]\d\b", whole))):
        whole = whole.replace(port, str(free_port()))
    return whole + "\n"


def sh_quoted(text: str) -> str:
    """The text as one word of the shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def main() -> None:
    """Run them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    with tempfile.TemporaryDirectory(prefix="ors-gym-readme-") as name, serve_chat() as chat:
        copy = Path(name) / "ors-gym"
        for file in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / file).is_file():
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, copy / file)
        chat.answers = [says("enough")]
        own = Path(sys.executable).parent
        path = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != own)
        environment = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)} | {"PATH": path}
        done = subprocess.run(["bash", "-c", script(chat.url)], cwd=copy, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit("the last of these commands failed")
    print(f"{len(commands())} passed, 0 failed")


if __name__ == "__main__":
    main()
