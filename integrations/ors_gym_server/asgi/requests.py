"""Request bodies and structured headers. Unknown fields of a body are ignored."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeAlias, TypeVar, cast

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from ors_gym.errors import ProtocolError
from ors_gym.http.answers import RefusedError
from ors_gym.json_text import has_more_values
from ors_gym.types import Message

__all__ = ["CallBody", "ClientRequest", "CreateSession", "OfSplit", "ScoreGroup", "TaskAt", "TaskRange", "read_call"]

MAX_DETAILS = 100
"""Maximum errors of a body that are listed."""

MAX_VALUES = 500_000
"""Maximum values and keys of a body: 16 MiB of ``[],[],…`` would block the loop for a second and take 0.5 GB."""

MAX_ID = 256
"""Maximum length of an id that a client chooses."""

TaskId: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_ID, pattern="^[!-~]+$")]

B = TypeVar("B", bound=BaseModel)


class OfSplit(BaseModel):
    """The body of ``/tasks`` and ``/num_tasks``."""

    split: str


class TaskAt(OfSplit):
    """The body of ``/task``."""

    index: int


class TaskRange(OfSplit):
    """The body of ``/task_range``: the rules of Python slices."""

    start: int | None = None
    stop: int | None = None


class CreateSession(BaseModel):
    """The body of ``/create``: a task, or where to find it."""

    env_name: str | None = None
    task_spec: dict[str, Any] | None = None
    split: str | None = None
    index: int | None = None
    toolset_name: str | None = None
    secrets: dict[str, str] = {}
    """Secrets as in the specification; those in the reference SDK's header ``X-Secrets`` take precedence."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.split is None) != (self.index is None):
            raise ValueError("split and index must both be provided together")
        if (self.task_spec is None) == (self.split is None):
            raise ValueError("Provide either task_spec or both split and index, not both/neither")
        return self


class CallBody(BaseModel):
    """The body of ``/call``. A ``task_id`` resumes the call that has it, or names this one."""

    name: str
    input: dict[str, Any]
    task_id: TaskId | None = None


class Candidate(BaseModel):
    """One trajectory to compare."""

    messages: list[dict[str, Any]]
    metadata: dict[str, Any] | None = None

    @field_validator("messages")
    @classmethod
    def _are_messages(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            for message in messages:
                Message.from_wire(message)
        except ProtocolError as error:
            raise ValueError(error.message) from error
        return messages


class ScoreGroup(BaseModel):
    """The body of ``/score_group``."""

    candidates: list[Candidate]
    task_id: TaskId | None = None


def read_call(body: bytes) -> tuple[str, dict[str, Any], str | None]:
    """Name, input and ``task_id`` of a call."""
    try:
        wire = _read_json(body)
        if len(wire) == 2:
            name, input = wire["name"], wire["input"]
            if type(name) is str and type(input) is dict:
                return name, cast("dict[str, Any]", input), None
    except (ValueError, TypeError, KeyError):
        pass
    call = read_body(body, CallBody)
    return call.name, call.input, call.task_id


def read_body(body: bytes, model: type[B]) -> B:
    """The body as a record.

    Raises:
        RefusedError: 422, it is not valid; the detail says where.
    """
    try:
        wire = _read_json(body)
    except ValueError as error:
        raise RefusedError(422, f"the body is no JSON: {error}") from None
    try:
        return model.model_validate(wire)
    except ValidationError as error:
        if error.error_count() > MAX_DETAILS:
            raise RefusedError(422, f"the body has {error.error_count()} errors") from None
        details = error.errors(include_url=False, include_context=False, include_input=False)  # there may be secrets
        raise RefusedError(422, [each | {"loc": ["body", *each["loc"]]} for each in details]) from None


def _read_json(body: bytes) -> Any:
    if has_more_values(body, MAX_VALUES):
        raise RefusedError(413, f"the body has more than {MAX_VALUES:,} values")
    return from_json(body)


class _Secret(BaseModel):
    value: str


_SECRETS = TypeAdapter(dict[str, _Secret])


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A request, as endpoints need it."""

    sid: str
    secrets_header: bytes
    body: bytes

    def require_sid(self) -> str:
        """The session id."""
        if not self.sid:
            raise RefusedError(400, "X-Session-ID header is required")
        if len(self.sid) > MAX_ID:
            raise RefusedError(400, f"a session id has at most {MAX_ID} characters")
        return self.sid

    def read(self, model: type[B]) -> B:
        """The body as a record."""
        return read_body(self.body, model)

    @property
    def secrets(self) -> dict[str, str]:
        """The secrets of ``X-Secrets``: base64 of ``{"NAME": {"value": "…"}}``."""
        if not self.secrets_header:
            return {}
        try:
            wire = from_json(base64.b64decode(self.secrets_header, validate=True))
            return {name: secret.value for name, secret in _SECRETS.validate_python(wire).items()}
        except ValueError:
            raise RefusedError(400, 'X-Secrets must be base64 of {"NAME": {"value": "…"}}') from None
