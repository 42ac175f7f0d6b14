"""The conformance kit: checks whether a server implements ORS as the standard requires.

For authors of environments and servers. In a test::

    def test_my_server_speaks_ors():
        report = asyncio.run(check_server("http://localhost:8080"))
        assert report.ok, report

Each check is a numbered statement with its level. ``required``: the Open Reward Standard's HTTP API requires it.
``recommended``: clients work without it, with fewer features. ``extension``: of the reference implementation or of
ors-gym. Only required statements can fail. The checks open and close sessions. Without ``play``, they call tools only
in ways that a server must refuse, so that only the environment's set-up and tear-down run.
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
