"""The results of checking a server, as objects, text, JSON and JUnit XML."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from xml.etree import ElementTree

__all__ = ["Check", "CheckReport", "Level", "Outcome"]

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Level(StrEnum):
    """How strongly the standard demands something."""

    REQUIRED = "required"
    RECOMMENDED = "recommended"
    EXTENSION = "extension"


class Outcome(StrEnum):
    """The outcome of a check."""

    PASS = "pass"
    FAIL = "fail"
    WARN = "warn"
    """Not met, but not required."""
    SKIP = "skip"
    """Not applicable, or a prerequisite failed."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, the statement of the protocol that it tests, its outcome and the observation."""

    name: str
    statement: str
    outcome: Outcome
    message: str
    number: str = ""
    """The check's permanent number in the kit: ``2.3``."""
    level: Level = Level.REQUIRED
    reference: str = ""
    """The source of the statement."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All checks of one environment of a server, in order of execution. As a string, one line per check."""

    url: str
    env_name: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no required check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome is Outcome.FAIL)

    @property
    def counts(self) -> Mapping[Outcome, int]:
        """Number of checks by outcome."""
        return Counter(check.outcome for check in self.checks)

    def __str__(self) -> str:
        lines = [f"{each.outcome}  {each.number} {each.name} ({each.level}): {each.message}" for each in self.checks]
        return "\n".join([f"{self.env_name or 'no environment'} at {self.url}", *lines])

    def to_json(self) -> str:
        """The report as JSON."""
        checks: list[dict[str, Any]] = [
            {
                "number": each.number,
                "name": each.name,
                "level": str(each.level),
                "statement": each.statement,
                "reference": each.reference,
                "outcome": str(each.outcome),
                "message": each.message,
            }
            for each in self.checks
        ]
        return json.dumps({"url": self.url, "env_name": self.env_name, "ok": self.ok, "checks": checks}, indent=2)

    def to_junit(self) -> str:
        """The report as JUnit XML; an unmet recommendation is a skipped test with its reason."""
        suite = ElementTree.Element(
            "testsuite",
            name=_xml(f"ORS {self.env_name} at {self.url}"),
            tests=str(len(self.checks)),
            failures=str(len(self.failed)),
            skipped=str(self.counts[Outcome.SKIP] + self.counts[Outcome.WARN]),
        )
        for each in self.checks:
            case = ElementTree.SubElement(suite, "testcase", classname=f"ors.{each.level}")
            case.set("name", f"{each.number} {each.name}")
            if each.outcome is Outcome.FAIL:
                failure = ElementTree.SubElement(case, "failure", message=_xml(each.message))
                failure.text = _xml(f"{each.statement}\n{each.reference}")
            elif each.outcome is not Outcome.PASS:
                ElementTree.SubElement(case, "skipped", message=_xml(each.message))
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
