"""Groups under infrastructure failures: each comes back once, whole or said to be broken, and no session is left."""

from __future__ import annotations

import pytest

from tests.faults.rollout_campaign import HEAD, WORLDS, Campaign, row

GROUPS = 12


@pytest.mark.parametrize("name", WORLDS)
def test_every_group_comes_back_once_as_the_policy_says_and_no_session_is_left(name: str):
    world = WORLDS[name]
    campaign = Campaign(world, GROUPS, seed=1).run()
    print(HEAD, row(name, campaign), sep="\n")

    assert campaign.doubled == 0
    assert campaign.wrong == []
    assert campaign.sessions_left == 0
    assert campaign.kept + campaign.dropped == GROUPS + campaign.refills
    if world.failures.incomplete == "keep":
        needed = world.failures.min_valid_members
        assert all(group.dropped == (group.num_valid < needed) for group in campaign.groups)
    else:
        assert campaign.kept == campaign.complete
    if world.failures.incomplete == "refill":
        assert campaign.refills > 0
    if name in ("nothing breaks", "the server is full"):
        assert campaign.complete == GROUPS
        assert not campaign.failures
    elif world.breaks:
        assert campaign.failures
