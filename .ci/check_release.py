"""Look at what `make release` built: names, contents, the version, and the wheel in a fresh environment.

python .ci/check_release.py dist
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IN_WHEEL = (
    "ors_gym/__init__.py",
    "ors_gym/py.typed",
    "ors_gym/examples/buttons.py",
    "ors_gym/reporting/pages/page.html",
    "ors_gym_ray/__init__.py",
    "ors_gym_server/scaffold/templates/game/server.py",
    "ors_gym_trl/__init__.py",
)
IN_SDIST = ("CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "README.md", "docs/index.md", "tests/conftest.py")


def main() -> None:
    """Check the folder that is named."""
    folder = Path(sys.argv[1])
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    version = re.findall(r'^__version__ = "(.+)"$', (ROOT / "ors_gym/__init__.py").read_text(), re.MULTILINE)[0]
    dated = re.findall(r"^## \[(.+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    faults = []
    if wheel.name != f"ors_gym-{version}-py3-none-any.whl" or sdist.name != f"ors_gym-{version}.tar.gz":
        faults.append(f"{wheel.name} and {sdist.name} are not of version {version}")
    if not dated or dated[0] != version:
        faults.append(f"the newest dated section of CHANGELOG.md is {dated[:1]}, not {version}")
    packed = zipfile.ZipFile(wheel).namelist()
    faults += [f"the wheel has no {name}" for name in IN_WHEEL if name not in packed]
    faults += [f"the wheel has {name}" for name in packed if not name.startswith("ors_gym")]
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    faults += [f"the sdist has no {name}" for name in IN_SDIST if name not in sources]
    faults += [f"the sdist has {name}" for name in sources if "__pycache__" in name or name.startswith("docs/_build")]
    if faults:
        sys.exit("\n".join(faults))
    with tempfile.TemporaryDirectory(prefix="ors-gym-release-") as place:
        uv, environment = Path(sys.executable).with_name("uv"), Path(place) / "env"
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, environment], check=True, cwd=place)
        install = [uv, "pip", "install", "-q", "--python", environment, "-c", ROOT / "constraints/locked.txt"]
        subprocess.run([*install, wheel.resolve()], check=True, cwd=place)
        said = subprocess.run(
            [environment / "bin/ors-gym", "--version"], check=True, cwd=place, capture_output=True, text=True
        ).stdout
    if said.strip() != f"ors-gym {version}":
        sys.exit(f"the installed wheel says {said!r}")
    print(f"{wheel.name}: {len(packed)} files; {sdist.name}: {len(sources)} files; installed: {said.strip()}")


if __name__ == "__main__":
    main()
