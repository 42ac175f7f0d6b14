"""Whatever is sent: a reader of the core gives its value, or refuses with the error that its callers expect."""

from __future__ import annotations

import pytest

from tests.hostile.readers import core_readers, tried

READERS = core_readers()


@pytest.mark.parametrize("name", READERS)
def test_a_reader_refuses_in_its_own_words(name: str):
    assert tried({name: READERS[name]}, 300) == (0, {})
