"""Policies: random, scripted, and models behind chat endpoints."""

from ors_gym.policies.endpoint import ChatPolicy, EndpointRefusedError
from ors_gym.policies.policy import Policy, RandomPolicy, ScriptedPolicy, Turn
from ors_gym.trajectory import Reply

__all__ = ["ChatPolicy", "EndpointRefusedError", "Policy", "RandomPolicy", "Reply", "ScriptedPolicy", "Turn"]
