"""The options of a session have one name each at every door."""

from __future__ import annotations

import argparse

import pytest

from ors_gym.cli.arguments import add_task_options, session_options
from ors_gym.envs.async_env import EnvOptions
from ors_gym.rollouts.options import SESSION_OPTIONS, SessionOptions, check_session_options


def test_environments_take_every_option_of_a_session():
    assert set(SESSION_OPTIONS) <= set(EnvOptions.__annotations__)


def test_the_command_line_takes_every_option_of_a_session_but_tools_known_beforehand():
    parser = argparse.ArgumentParser()
    add_task_options(parser)
    given = session_options(parser.parse_args(["--secret", "KEY=v", "--toolset", "files", "--parallel-tool-calls"]))
    assert given == {"secrets": {"KEY": "v"}, "toolset": "files", "parallel_tool_calls": True, "tool_errors": "observe"}
    assert set(given) == set(SESSION_OPTIONS) - {"tools"}


def test_named_tools_run_at_once():
    parser = argparse.ArgumentParser()
    add_task_options(parser)
    assert session_options(parser.parse_args(["--parallel-tool-calls", "a,b"]))["parallel_tool_calls"] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"tool_set": "x"}, "unknown options tool_set"), ({"parallel_tool_calls": "look"}, "collection of tools")],
)
def test_an_option_without_a_meaning_is_refused(options: SessionOptions, words: str):
    with pytest.raises(ValueError, match=words):
        check_session_options(options)
