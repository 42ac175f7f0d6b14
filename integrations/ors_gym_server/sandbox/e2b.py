"""Sandboxes at E2B (https://e2b.dev), by its package ``e2b``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from ors_gym_server.sandbox.base import SandboxError, SandboxLimits
from ors_gym_server.sandbox.remote import RemoteSandbox, installed

__all__ = ["E2BSandbox"]


class E2BSandbox(RemoteSandbox):
    """A virtual machine at E2B, made from a ``template`` (default: E2B's ``base``).

    E2B enforces the limit ``network``; memory, disk and processors are the template's. The key is ``api_key`` or the
    variable ``E2B_API_KEY``; ``options`` are passed to ``AsyncSandbox.create``.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        template: str | None = None,
        api_key: str | None = None,
        lifetime_seconds: int = 3600,
        **options: Any,
    ) -> None:
        super().__init__(limits, lifetime_seconds=lifetime_seconds)
        self._options = {"template": template, **options} | ({} if api_key is None else {"api_key": api_key})
        self._machine: Any = None

    async def _create(self) -> None:
        e2b = installed("e2b")
        with self._named():
            self._machine = await e2b.AsyncSandbox.create(
                timeout=self.lifetime_seconds, allow_internet_access=self.limits.network, **self._options
            )

    async def _destroy(self) -> None:
        machine, self._machine = self._machine, None
        if machine is not None:
            with self._named():
                await machine.kill()

    async def _shell(self, arguments: Sequence[str], seconds: float) -> str:
        with self._named():
            result = await self._machine.commands.run(shlex.join(arguments), timeout=seconds)
        return str(result.stdout)

    async def _put(self, path: str, content: bytes) -> None:
        with self._named():
            await self._machine.files.write(path, content)

    async def _get(self, path: str) -> bytes:
        with self._named(path):
            return bytes(await self._machine.files.read(path, format="bytes"))

    @contextmanager
    def _named(self, path: str = "") -> Iterator[None]:
        """Translate E2B's errors."""
        e2b = installed("e2b")
        try:
            yield
        except e2b.FileNotFoundException as error:
            raise FileNotFoundError(f"no such file in the sandbox: {path}") from error
        except (e2b.SandboxException, e2b.AuthenticationException, e2b.ServiceBusyException, httpx.HTTPError) as error:
            raise SandboxError(f"E2B: {error}") from error
