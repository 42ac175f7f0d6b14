"""The conformance kit: whether a server speaks ORS as the standard asks, and as agents and trainers like it.

For the authors of environments and servers. In a test::

    def test_my_server_speaks_ors():
        report = asyncio.run(check_server("http://localhost:8080"))
        assert report.ok, report

Each check is a numbered statement with its level. ``required``: the Open Reward Standard's HTTP API asks for it.
``recommended``: clients do without it, or with less. ``extension``: of the reference implementation or of ors-gym. Only
what is required can fail. The checks open sessions and close them. They call tools only in ways that a server must
refuse, so nothing of the environment runs beyond its set-up and tear-down, unless they are told to ``play``.
"""

from ors_gym.testing.report import Check, CheckReport, Level, Outcome
from ors_gym.testing.run import check_server
from ors_gym.testing.statements import STATEMENTS, Statement
from ors_gym.testing.tasks import Finding, TaskReport, probe_tasks

__all__ = [
    "STATEMENTS",
    "Check",
    "CheckReport",
    "Finding",
    "Level",
    "Outcome",
    "Statement",
    "TaskReport",
    "check_server",
    "probe_tasks",
]
