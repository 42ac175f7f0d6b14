"""The proxies' configurations in the documentation are those that are tested."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

CONFIGURATIONS = ROOT / "tests" / "network" / "configurations"
FILES = {"nginx": "nginx.conf", "HAProxy": "haproxy.cfg", "Caddy": "Caddyfile"}
OWN = re.compile(r"(\d+\.\d+\.\d+\.\d+|\$\w+|\$\{\w+\}|listen|bind|timeout server|^ors\.example)")
"""What differs: addresses, ports, limits."""


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and not OWN.search(line.strip())]


@pytest.mark.parametrize("program", FILES)
def test_every_line_of_a_documented_configuration_is_in_the_tested_one(program: str):
    page = (ROOT / "docs" / "deployment.md").read_text()
    (block,) = re.findall(rf"^## {program}\n[^`]*```\w+\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    tested = set(lines((CONFIGURATIONS / FILES[program]).read_text()))

    assert len(lines(block)) > 5
    assert [line for line in lines(block) if line not in tested] == []
