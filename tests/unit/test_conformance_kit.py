"""`ors-gym check` on servers that do anything: a report, never a traceback."""

from __future__ import annotations

import asyncio
import json
from xml.etree import ElementTree

import pytest

from ors_gym.http import transport
from ors_gym.testing import STATEMENTS, Check, CheckReport, Level, Outcome, check_server
from tests.support.scripted_server import ScriptedORS, events, http, json_answer

DEEP = "[" * 5000 + "]" * 5000
PATHS = ("health", "list_environments", "splits", "tools", "tasks", "create_session", "create", "prompt", "call")
BAD = {
    "deep": json_answer(DEEP),
    "null": json_answer(None),
    "number": json_answer("9" * 5000),
    "text": http(b"\xff\xfe"),
    "surrogate": json_answer({"sid": "\ud800", "tools": ["\ud800"], "status": "\ud800"}),
    "header": http(b"{}", headers="X-A: " + "b" * 2000 + "\r\n") * 1,
    "garbage": b"\x00\x01 garbage\r\n\r\n",
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 30_000,
    "status": http(b"", status="999 What"),
    "page": http(b"<html><title>x</title>", "text/html", status="500 No"),
    "events": events(("error", "\x1b]52;c;x\x07")),
    "array": json_answer([[], {}, 1, None]),
}


def test_numbers_and_names_are_unique_and_every_statement_has_words_and_a_reference():
    assert len({each.number for each in STATEMENTS}) == len({each.name for each in STATEMENTS}) == len(STATEMENTS)
    assert all(each.words and each.reference for each in STATEMENTS)


def test_a_server_of_what_is_required_passes():
    server = ScriptedORS()
    for name in ("task_tools", "num_tasks", "task", "task_range", "messages", "ping", "delete_session"):
        del server.answers[name]
    report = check(server)
    failed = {each.name for each in report.failed}
    assert failed <= {"unknown_tool", "sessions_are_apart", "deleted_session", "unknown_session"}  # it is a script


def check(server: ScriptedORS, seconds: float = 3) -> CheckReport:
    async def conversation() -> CheckReport:
        async with server:
            return await check_server(server.url, seconds_per_check=seconds, client_options={})

    return asyncio.run(asyncio.wait_for(conversation(), 100))


@pytest.mark.parametrize("kind", BAD)
def test_a_server_that_answers_anything_gets_a_report(kind, monkeypatch):
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 2**20)
    for path in PATHS:
        report = check(ScriptedORS({path: BAD[kind]}), seconds=0.5)
        assert report.checks, path
        assert json.loads(report.to_json())["ok"] is report.ok
        assert ElementTree.fromstring(report.to_junit()).attrib["failures"] == str(len(report.failed))
        if kind != "header":
            assert not report.ok, (path, str(report))


def test_a_report_is_valid_xml_for_any_server():
    said = "\x00\x1b[31m<&>\ud800 ]]>"
    report = CheckReport("http://x", "e", (Check("a", "b", Outcome.FAIL, said, "1.1", Level.REQUIRED, "r"),))
    assert ElementTree.fromstring(report.to_junit()).find("testcase/failure") is not None
