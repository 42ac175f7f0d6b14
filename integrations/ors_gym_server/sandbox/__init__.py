"""Sandboxes for environments that run code."""

from ors_gym_server.sandbox.base import CommandResult, Sandbox, SandboxError, SandboxLimits, data_path
from ors_gym_server.sandbox.isolation import Guarantee, Isolation, IsolationError, Property
from ors_gym_server.sandbox.local import LocalSandbox

__all__ = [
    "CommandResult",
    "Guarantee",
    "Isolation",
    "IsolationError",
    "LocalSandbox",
    "Property",
    "Sandbox",
    "SandboxError",
    "SandboxLimits",
    "data_path",
]
