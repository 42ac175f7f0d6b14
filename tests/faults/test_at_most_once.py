"""Every tool at most once, whatever breaks: hundreds of calls through every fault; ``tests/nightly`` has thousands."""

from __future__ import annotations

import pytest

from tests.faults.call_campaign import FAULTS, Campaign

NEVER_BEGAN = ("cut before the server", "answer lost", "cut before task_id", "502 from a gateway")


def hold_what_is_promised(campaign: Campaign) -> None:
    print(campaign.table())
    assert sum(row.calls for row in campaign.rows.values()) >= campaign.calls
    assert [wrong for row in campaign.rows.values() for wrong in row.wrong] == []
    assert sum(row.ran_twice for row in campaign.rows.values()) == 0
    assert sum(row.misjudged for row in campaign.rows.values()) == 0
    assert campaign.leaked == 0
    assert all(campaign.rows[name].calls for name in FAULTS), "a fault was never tried"


def test_no_call_runs_twice_each_has_an_end_and_no_session_is_left():
    campaign = Campaign(calls=800, seed=1).run()
    hold_what_is_promised(campaign)
    assert all(campaign.rows[name].results == 0 for name in NEVER_BEGAN), "a call was sent again without a task_id"


@pytest.mark.parametrize("server", ["named", "ours"])
def test_where_the_client_may_name_its_calls_they_run_exactly_once(server: str):
    campaign = Campaign(calls=300, seed=2, **{server: True}).run()
    hold_what_is_promised(campaign)
    for name in NEVER_BEGAN:
        row = campaign.rows[name]
        assert row.results + row.errors["session_lost"] == row.calls, "a call that could be sent again was not"
