"""Builds ors-gym itself as a wheel, for images and folders while it is not on an index.

Built from the installed package without a network: ``python -m ors_gym_server.scaffold.wheel wheels``.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["write_wheel"]

PACKAGES = ("ors_gym", "ors_gym_ray", "ors_gym_server", "ors_gym_trl")
WHEEL = "Wheel-Version: 1.0\nGenerator: ors-gym\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_DATE = (2020, 1, 1, 0, 0, 0)
"""The date of every file: the same code gives the same wheel."""


def write_wheel(folder: Path) -> Path:
    """Write the wheel to a folder, which is created if needed."""
    distribution = importlib.metadata.distribution("ors-gym")
    about = f"ors_gym-{distribution.version}.dist-info"
    files = dict(_code())
    files[f"{about}/METADATA"] = (distribution.read_text("METADATA") or "").encode()
    files[f"{about}/entry_points.txt"] = (distribution.read_text("entry_points.txt") or "").encode()
    files[f"{about}/WHEEL"] = WHEEL.encode()
    record = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()]
    files[f"{about}/RECORD"] = "".join([*record, f"{about}/RECORD,,\n"]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"ors_gym-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            member = zipfile.ZipInfo(name, _DATE)
            member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            wheel.writestr(member, content)
    return path


def _code() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or ()) if spec is not None else ():
            for path in sorted(Path(location).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    yield f"{package}/{path.relative_to(location).as_posix()}", path.read_bytes()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    print(write_wheel(Path(sys.argv[1] if len(sys.argv) > 1 else "wheels")))
