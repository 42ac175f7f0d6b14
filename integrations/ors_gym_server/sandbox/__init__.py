"""Sandboxes for environments that run code."""

from ors_gym_server.sandbox.base import CommandResult, Sandbox, SandboxError, SandboxLimits, data_path
from ors_gym_server.sandbox.daytona import DaytonaSandbox
from ors_gym_server.sandbox.e2b import E2BSandbox
from ors_gym_server.sandbox.isolation import USUAL, Guarantee, Isolation, IsolationError, Property
from ors_gym_server.sandbox.local import LocalSandbox
from ors_gym_server.sandbox.modal import ModalSandbox

__all__ = [
    "USUAL",
    "CommandResult",
    "DaytonaSandbox",
    "E2BSandbox",
    "Guarantee",
    "Isolation",
    "IsolationError",
    "LocalSandbox",
    "ModalSandbox",
    "Property",
    "Sandbox",
    "SandboxError",
    "SandboxLimits",
    "data_path",
]
