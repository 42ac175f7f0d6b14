"""Exceptions: everything that can go wrong between an agent and an ORS environment.

::

    ORSError
    ├── TransportError             a network failure; says nothing about the environment
    │   ├── ConnectError           no connection was made, so nothing was sent
    │   │   └── CertificateError   the server's certificate is not trusted
    │   ├── ConnectionLostError    the connection broke after something was sent
    │   └── RequestTimeoutError    no answer within the time allowed
    ├── ProtocolError              the server answered something that is not ORS
    ├── StatusError                the server refused: an HTTP status that is an answer
    │   ├── AuthenticationError    401, 403: the API key is missing or wrong
    │   ├── NotFoundError          404: no such environment, route, split or task
    │   ├── CapacityError          429 for longer than the wait allowed
    │   └── StartingError          503 "starting" for longer than the wait allowed
    ├── ToolFailedError            the tool raised; its session continues
    ├── SessionError               this episode is over; a new session may succeed
    │   ├── SessionLostError       the server no longer has the session, or it was given up
    │   ├── SessionClosedError     the session was used before it was opened or after it was closed
    │   ├── AmbiguousCallError     the call may or may not have run, so it is not sent again
    │   └── CallTimeoutError       the call took longer than allowed; its tool may run on
    ├── EndpointError              the model's endpoint failed: neither the environment's fault nor the agent's
    ├── RunFailedError             every episode of a run failed
    ├── UnknownDialectError        no dialect reads the tool calls that a chat template writes
    └── PortalError                the event-loop thread is closed, or belongs to another process

``EndpointRefusedError`` is none of them: every request to the endpoint would be refused, so it ends the whole run.

An agent's mistake (unknown tool, bad input) is not an exception but ``ToolOutput(ok=False)``.
Wrong arguments to this library raise ``ValueError`` with messages that contain no keys.

Errors can be pickled. ``kind`` names the class in counters and logs. For an error during a call, ``session_id``,
``tool`` and ``may_have_run`` say which call it was and whether its tool may have run.
"""

from __future__ import annotations

from typing import ClassVar, Self

__all__ = [
    "AmbiguousCallError",
    "AuthenticationError",
    "CallTimeoutError",
    "CapacityError",
    "CertificateError",
    "ConnectError",
    "ConnectionLostError",
    "EndpointError",
    "EndpointRefusedError",
    "NotFoundError",
    "ORSError",
    "PortalError",
    "ProtocolError",
    "RequestTimeoutError",
    "RunFailedError",
    "SessionClosedError",
    "SessionError",
    "SessionLostError",
    "StartingError",
    "StatusError",
    "ToolFailedError",
    "TransportError",
    "UnknownDialectError",
]


class ORSError(Exception):
    """The base class. ``message`` says what happened, :meth:`at` adds where, the class adds advice."""

    kind: ClassVar[str] = "ors"
    advice: ClassVar[str] = ""

    where: str = ""
    """The request: method and URL."""
    session_id: str = ""
    """The session's id, empty without a session."""
    tool: str = ""
    """The tool that was called, empty outside calls."""
    may_have_run: bool | None = None
    """Whether that tool may have run; None outside calls."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def at(
        self,
        where: str = "",
        *,
        session_id: str = "",
        tool: str = "",
        may_have_run: bool | None = None,
    ) -> Self:
        """Add where it happened, keeping what is already set. Returns the error itself."""
        self.where = self.where or where
        self.session_id = self.session_id or session_id
        self.tool = self.tool or tool
        if self.may_have_run is None:
            self.may_have_run = may_have_run
        return self

    def _what(self) -> str:
        return self.message

    @property
    def brief(self) -> str:
        """What happened and where, without session and advice, for an error that names this one as its cause."""
        return f"{self._what()} [{self.where}]" if self.where else self._what()

    def __str__(self) -> str:
        context = [self.where] if self.where else []
        if self.session_id:
            context.append(f"session {self.session_id}")
        if self.tool:
            context.append(f"tool {self.tool!r}")
        if self.may_have_run is not None:
            context.append("the tool may have run" if self.may_have_run else "the tool did not run")
        text = self._what() + (f" [{'; '.join(context)}]" if context else "")
        return f"{text}. {self.advice}" if self.advice else text


class TransportError(ORSError):
    """A network failure; says nothing about the environment."""

    kind = "transport"


class ConnectError(TransportError):
    """No connection was made, so nothing was sent."""

    kind = "connect"
    advice = "Is the server running at this address, and reachable from here?"


class CertificateError(ConnectError):
    """The server's certificate is not trusted: not tried again."""

    kind = "certificate"
    advice = (
        "For a private authority pass its certificates: verify='ca.pem' in ORSClient or client_options, --ca at the "
        "command line, or the environment variable SSL_CERT_FILE"
    )


class ConnectionLostError(TransportError):
    """The connection broke after something was sent."""

    kind = "connection"
    advice = "Look at the server's log for a crash or restart, and at proxies in between for their time limits"


class RequestTimeoutError(TransportError):
    """No answer within the time allowed."""

    kind = "timeout"
    advice = "If the server is only slow, allow more in Timeouts"


class ProtocolError(ORSError):
    """The server answered something that is not ORS."""

    kind = "protocol"
    advice = "Is this an ORS server? `ors-gym check URL` tests one"


class StatusError(ORSError):
    """The server refused: HTTP ``status``, with its ``detail``."""

    kind = "status"

    def __init__(self, status: int, detail: str) -> None:
        Exception.__init__(self, status, detail)
        self.status = status
        self.detail = detail
        self.message = f"the server answered {status}: {detail}" if detail else f"the server answered {status}"


class AuthenticationError(StatusError):
    """401, 403: the API key is missing or wrong."""

    kind = "authentication"
    advice = "Pass a valid key: api_key=, --api-key, or the environment variable ORS_API_KEY"


class NotFoundError(StatusError):
    """404: no such environment, route, split or task."""

    kind = "not_found"
    advice = "client.list_environments() and client.list_splits(env_name) say what there is"


class CapacityError(StatusError):
    """429 for longer than ``Timeouts.capacity_seconds``."""

    kind = "capacity"
    advice = "Open fewer sessions at once, give the server more capacity, or raise Timeouts.capacity_seconds"


class StartingError(StatusError):
    """503 "starting" for longer than ``Timeouts.starting_seconds``."""

    kind = "starting"
    advice = "If the environment is only slow to start, raise Timeouts.starting_seconds"


class SessionError(ORSError):
    """This episode is over; a new session may succeed."""

    kind = "session"


class SessionLostError(SessionError):
    """The server no longer has the session, or it was given up after a call whose end is unknown."""

    kind = "session_lost"
    advice = "Start the episode again on a new session"


class SessionClosedError(SessionError):
    """The session was used before it was opened or after it was closed."""

    kind = "session_closed"
    advice = "Use it inside `async with client.session(...) as session:`"


class ToolFailedError(ORSError):
    """The tool raised; its session continues."""

    kind = "tool_failed"
    advice = "The traceback is in the server's log"


class AmbiguousCallError(SessionError):
    """The call may or may not have run, so it is not sent again: a tool runs at most once."""

    kind = "ambiguous_call"
    advice = "Start the episode again on a new session"


class CallTimeoutError(SessionError):
    """The call took longer than allowed; its tool may run on, and the session is given up."""

    kind = "call_timeout"
    advice = "If the tool is only slow, raise Timeouts.call_seconds"


class EndpointError(ORSError):
    """The model's endpoint failed, not the environment or the agent. The episode has no result."""

    kind = "endpoint"


class RunFailedError(ORSError):
    """Every episode of a run failed on every attempt; the message has the last failure."""

    kind = "run_failed"


class UnknownDialectError(ORSError, ValueError):
    """No dialect reads the tool calls that a chat template writes."""

    kind = "unknown_dialect"
    advice = (
        "Set tokenizer.chat_template to one that teaches a known dialect (see ors_gym.dialects), or pass a Dialect of "
        "your own as the parser"
    )


class PortalError(ORSError, RuntimeError):
    """The event-loop thread is closed, or belongs to another process."""

    kind = "portal"


class EndpointRefusedError(RuntimeError):
    """The model's endpoint refuses the requests themselves: the key, the model or a setting is wrong. Ends the run."""
