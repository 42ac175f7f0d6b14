"""Exit statuses of commands, and the errors that end them."""

from __future__ import annotations

__all__ = ["BAD_INPUT", "FAILURE", "INTERRUPTED", "NO_VERDICT", "CommandError", "InputError", "NoVerdictError"]

FAILURE, BAD_INPUT, NO_VERDICT, INTERRUPTED = 1, 2, 3, 130
"""Exit statuses."""


class CommandError(Exception):
    """Ends a command with a message and an exit status."""

    status = FAILURE


class InputError(CommandError):
    """Invalid input: exit status 2."""

    status = BAD_INPUT


class NoVerdictError(CommandError):
    """The server or endpoint failed, so there is no verdict on a model: exit status 3."""

    status = NO_VERDICT
