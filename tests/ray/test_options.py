"""Options that cannot reach an actor are refused where they are given."""

from __future__ import annotations

import ssl

import pytest

from ors_gym_ray import RolloutPool


def test_a_tls_context_is_refused_in_words_that_name_the_other_way():
    with pytest.raises(ValueError, match="give verify the path"):
        RolloutPool("https://ors.example", env_name="e", client_options={"verify": ssl.create_default_context()})
