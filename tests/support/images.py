"""Images built and run as a container engine does, without one: the file's own instructions, on this machine's Linux.

Each RUN and COPY is a layer over those before it (overlayfs), run in a root directory of its own (pivot_root);
instructions that two files begin with are run once. A container is the image's command, as its user, in its directory,
with its environment, in its own network namespace: the port that it names is its own too. The layers lie in
memory, in a mount namespace that ends with the builder; nothing of the machine is changed.

What is not as an engine does it:

- The base image: ``FROM python:3.11-slim`` is this machine's root directory, with a fresh virtual environment of the
  interpreter that runs the tests at ``/usr/local``, and without the machine's users from 1000 on.
- RUN is given the variables that configure pip here (``PIP_*``), and pip compiles nothing beforehand: it saves time.
- A container's processes see those of the machine, and nothing limits what they use.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

__all__ = ["Image", "ImageBuilder", "missing"]

PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
PARENTS = " ".join(shlex.quote(str(path)) for path in Path(sys.base_prefix).parents)
BASE = f"""
set -e
awk -F: '$3 >= 1000 && $3 < 60000 {{ print $1 }}' /etc/passwd | xargs -r -n 1 userdel
chmod o+x {PARENTS}
{shlex.quote(sys.executable)} -m venv /usr/local
"""


PROBE = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/layer /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/layer,workdir=/mnt/work /mnt/root
"""


def missing() -> str:
    """What this machine lacks to build images in this way; empty if it lacks nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it takes root on Linux"
    tools = ("unshare", "nsenter", "mount", "pivot_root", "ip", "useradd", "curl")
    lacking = [name for name in tools if shutil.which(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    probe = ["unshare", "--mount", "--net", "/bin/sh", "-c", PROBE]
    return subprocess.run(probe, capture_output=True, text=True, check=False).stderr.strip()


@dataclass(frozen=True)
class Image:
    """What a Dockerfile made: layers, the last one first, and how a container of it is started."""

    layers: tuple[Path, ...] = ()
    workdir: str = "/"
    user: str = "root"
    port: int | None = None
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH, "LANG": "C.UTF-8"})


class ImageBuilder:
    """Builds images of one folder, and runs containers of them; a context manager, whose end discards them all."""

    def __init__(self, context: Path, scratch: Path) -> None:
        self.context = context
        self.steps_run: list[str] = []
        self._layers = scratch / "layers"
        self._staged = scratch / "staged"
        for folder in (self._layers, self._staged):
            folder.mkdir()
        self._known: dict[tuple[str, ...], Path] = {}
        self._numbers = itertools.count()
        hold = f"mount -t tmpfs tmpfs {self._layers} && echo && exec cat"  # until its input ends
        command = ["unshare", "--mount", "/bin/sh", "-c", hold]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()

    def __enter__(self) -> ImageBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()

    def build(self, dockerfile: str) -> Image:
        """Run the file's instructions. Raises CalledProcessError, with its output, for one that fails."""
        image = Image()
        for instructions in _prefixes(_instructions(self.context / dockerfile)):
            name, _, rest = instructions[-1].partition(" ")
            values = vars(image).copy()
            if name == "FROM":
                assert rest == "python:3.11-slim"
                values["layers"] = (self._layer(image, instructions, BASE),)
            elif name == "RUN":
                values["layers"] = (self._layer(image, instructions, rest), *image.layers)
            elif name == "COPY":
                values["layers"] = (self._layer(image, instructions, self._copy(rest)), *image.layers)
            elif name == "WORKDIR":
                values["workdir"] = str(PurePosixPath(image.workdir, rest))
            elif name == "USER":
                values["user"] = rest
            elif name == "ENV":
                variable, _, value = rest.partition("=")
                values["environment"] = image.environment | {variable: value}
            elif name == "EXPOSE":
                values["port"] = int(rest)
            elif name == "CMD":
                values["command"] = tuple(json.loads(rest))
            else:
                raise NotImplementedError(f"{dockerfile}: {name}")
            image = Image(**values)
        return image

    def _layer(self, image: Image, instructions: tuple[str, ...], script: str) -> Path:
        if instructions not in self._known:
            layer = self._layers / str(len(self._known))
            script = f"mkdir -p {image.workdir} && cd {image.workdir} && {{ {script}\n}}"
            command = self._in_root(image, layer, ["/bin/sh", "-c", script])
            pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | {
                "PIP_NO_COMPILE": "1"
            }
            subprocess.run(
                command, env=image.environment | pip | {"HOME": "/root"}, check=True, capture_output=True, text=True
            )
            self._known[instructions] = layer
            self.steps_run.append(instructions[-1])
        return self._known[instructions]

    def _copy(self, rest: str) -> str:
        """Put what is to be copied into a folder that the layer is made from; the script that does the rest."""
        words = rest.split()
        owner = words.pop(0).removeprefix("--chown=") if words[0].startswith("--chown=") else "root"
        *sources, target = words
        shutil.rmtree(self._staged)
        self._staged.mkdir()
        ignored = (self.context / ".dockerignore").read_text().split()
        for source in (path for pattern in sources for path in _matching(self.context, pattern)):
            for item in source.iterdir() if source.is_dir() else [source]:
                if not any(fnmatch.fnmatch(item.name, pattern) for pattern in ignored):
                    copy = shutil.copytree if item.is_dir() else shutil.copy
                    copy(item, self._staged / item.name)
        each = f"find /mnt -mindepth 1 -maxdepth 1 -exec cp -a -t {target} {{}} +"
        return f"chown -R {owner}: /mnt && mkdir -p {target} && {each}"

    @contextlib.contextmanager
    def running(self, image: Image, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
        """A container: the image's command as its user, in its own network; ended as ``docker stop`` does."""
        enter = ["/bin/sh", "-c", f'cd {image.workdir} && exec "$@"', "sh", *image.command]
        layer = self._layers / f"container{next(self._numbers)}"
        inner = self._in_root(image, layer, enter, userspec=f"{image.user}:")
        command = ["unshare", "--net", "/bin/sh", "-c", 'ip link set lo up && exec "$@"', "sh", *inner]
        home = "/root" if image.user == "root" else f"/home/{image.user}"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        variables = image.environment | {"HOME": home} | dict(environment or {})
        with subprocess.Popen(command, env=variables, text=True, **pipes) as process:
            try:
                yield process
                process.terminate()
                process.wait(30)
            finally:
                process.kill()

    def _in_root(self, image: Image, layer: Path, command: Sequence[str], *, userspec: str = "0:0") -> list[str]:
        """The command that runs another in the image's root directory; what it changes there stays in ``layer``."""
        work, root = f"{layer}-work", f"{layer}-root"
        lower = ":".join([*map(str, image.layers), "/"])
        lines = [
            f"set -e; mkdir {layer} {work} {root}",
            f"mount -t overlay overlay -o lowerdir={lower},upperdir={layer},workdir={work} {root}",
            f"mount --rbind /dev {root}/dev; mount --rbind /proc {root}/proc; mount --bind {self._staged} {root}/mnt",
            f"cd {root} && pivot_root . . && umount -l .",
            f'exec chroot --userspec={userspec} / "$@"',
        ]
        enter = ["nsenter", "--mount", "--target", str(self._holder.pid)]
        return [*enter, "unshare", "--mount", "/bin/sh", "-c", "\n".join(lines), "sh", *command]


def _matching(folder: Path, pattern: str) -> list[Path]:
    return [folder] if pattern == "." else sorted(folder.glob(pattern))


def _instructions(dockerfile: Path) -> list[str]:
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line.strip() for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def _prefixes(instructions: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for number in range(len(instructions)):
        yield tuple(instructions[: number + 1])
