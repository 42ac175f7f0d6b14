"""Every tool at most once, whatever breaks: thousands of calls through every fault at once."""

from __future__ import annotations

import pytest

from tests.faults.call_campaign import Campaign
from tests.faults.test_at_most_once import hold_what_is_promised


@pytest.mark.parametrize("server", ["reference", "named", "ours"])
def test_no_call_runs_twice_each_has_an_end_and_no_session_is_left(server: str):
    options = {} if server == "reference" else {server: True}
    hold_what_is_promised(Campaign(calls=4000, seed=3, **options).run())
