"""The reference SDK's records are read as our own."""

from __future__ import annotations

from hypothesis import given
from openreward.environments import types as reference

from ors_gym.types import Message
from tests.unit.test_types import MESSAGES


@given(MESSAGES)
def test_a_message_that_the_reference_wrote_is_read(message):
    theirs = reference.Message.model_validate(message.to_wire()).model_dump(mode="json")
    assert Message.from_wire(theirs) == message
