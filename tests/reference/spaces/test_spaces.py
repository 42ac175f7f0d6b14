"""What the spaces give is what pydantic and a real server accept."""

from __future__ import annotations

import enum
import uuid
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openreward.environments import TextBlock as ServerText
from openreward.environments import ToolOutput, tool
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, StringConstraints, create_model

from ors_gym.envs.env import ORSEnv
from ors_gym.spaces.spaces import ToolCallSpace
from ors_gym.types import ToolCall, ToolSpec
from tests.support.environments import OneTask
from tests.support.ors_servers import serve


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int = Field(ge=-3, le=3)
    y: float = Field(gt=0, lt=1, default=0.5)


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = Field(max_length=2)


FIELD_TYPES = [
    bool, int, float, str, Any, Colour, Point, Tree, date, datetime, time, timedelta, Decimal, uuid.UUID, IPv4Address,
    AnyUrl, bytes, list[int], set[int], dict[str, int], dict[int, str], tuple[int, str], int | None, Point | None,
    list[Tree], dict[Literal["a", "b"], Point], Literal["on", "off", 3],
    Annotated[int, Field(multiple_of=5, ge=10)],
    Annotated[Cat | Dog, Field(discriminator="kind")],
    Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}\d{3}$")],
    Annotated[str, StringConstraints(min_length=2, max_length=3)],
    Annotated[list[float], Field(min_length=1, max_length=2)],
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FIELD_TYPES), st.booleans()), max_size=4), st.integers(0, 2**32 - 1))
@example([(kind, True) for kind in FIELD_TYPES], 0)
def test_a_pydantic_model_accepts_what_its_schema_gives(fields, seed):
    definitions: dict[str, Any] = {
        f"field_{place}": (kind, ...) if required else (kind | None if kind is not Any else Any, None)
        for place, (kind, required) in enumerate(fields)
    }
    model = create_model("Input", **definitions)
    space = ToolCallSpace([ToolSpec("call", input_schema=model.model_json_schema())], seed=seed)
    for _ in range(5):
        call = space.sample()
        assert call in space
        model(**call.input)


def form(kind: Any) -> Any:
    """A tool that takes a value of this type, and perhaps another."""
    model = create_model("Form", value=(kind, ...), more=(kind | None if kind is not Any else Any, None))

    def fill_in(self: Any, params: Any) -> Any:
        return ToolOutput(blocks=[ServerText(text="thanks")])

    fill_in.__annotations__ = {"params": model, "return": ToolOutput}
    return tool(fill_in)


class Office(OneTask):
    """A tool for each type of field, and one without arguments."""

    asks = "Fill in the forms."

    @tool
    def ring(self) -> ToolOutput:
        """Ring the bell."""
        return ToolOutput(blocks=[ServerText(text="ding")])


for place, kind in enumerate(FIELD_TYPES):
    setattr(Office, f"form_{place}", form(kind))


@pytest.fixture(scope="module")
def office():
    with serve(Office) as running:
        env = ORSEnv(running.url, "office")
        env.reset()
        yield env
        env.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_real_server_accepts_what_the_space_gives(office, seed):
    office.action_space.seed(seed)
    for name in office.action_space.names:
        call = office.action_space.sample(mask=office.action_space.mask(name))
        observation, _, _, _, info = office.step(call)
        assert "reason" not in info, (call, observation)


def test_the_space_refuses_what_a_real_server_refuses(office):
    for name in office.action_space.names:
        if name != "ring":
            assert ToolCall(name) not in office.action_space
            assert office.step(ToolCall(name))[4]["reason"] == "input_validation"
