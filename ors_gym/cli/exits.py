"""How commands end: their exit statuses, and the errors that end them early."""

from __future__ import annotations

__all__ = ["BAD_INPUT", "FAILURE", "INTERRUPTED", "NO_VERDICT", "CommandError", "InputError", "NoVerdictError"]

FAILURE, BAD_INPUT, NO_VERDICT, INTERRUPTED = 1, 2, 3, 130
"""Exit statuses."""


class CommandError(Exception):
    """Ends a command with a message and an exit status."""

    status = FAILURE


class InputError(CommandError):
    """What was asked for does not make sense here: exit status 2."""

    status = BAD_INPUT


class NoVerdictError(CommandError):
    """The server or the endpoint failed, so nothing can be said of a model: exit status 3, not that of a bad model."""

    status = NO_VERDICT
