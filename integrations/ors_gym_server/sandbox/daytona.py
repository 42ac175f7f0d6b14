"""Sandboxes at Daytona (https://daytona.io), by its package ``daytona``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ors_gym_server.sandbox.base import SandboxError, SandboxLimits
from ors_gym_server.sandbox.remote import RemoteSandbox, installed

__all__ = ["DaytonaSandbox"]


class DaytonaSandbox(RemoteSandbox):
    """A container at Daytona, made from an ``image`` or a ``snapshot`` (default: Daytona's own).

    Daytona enforces the limits ``network``, and for an image ``memory_bytes`` and ``disk_bytes`` (in whole GiB); a
    snapshot has its own. The key is ``api_key`` or the variable ``DAYTONA_API_KEY``; ``options`` are passed to
    ``CreateSandboxFromImageParams`` or ``CreateSandboxFromSnapshotParams``.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        image: str | None = None,
        snapshot: str | None = None,
        api_key: str | None = None,
        api_url: str | None = None,
        lifetime_seconds: int = 3600,
        **options: Any,
    ) -> None:
        if image is not None and snapshot is not None:
            raise ValueError("give an image or a snapshot, not both")
        super().__init__(limits, lifetime_seconds=lifetime_seconds)
        self._image, self._snapshot, self._options = image, snapshot, options
        self._account = {"api_key": api_key, "api_url": api_url}
        self._client: Any = None
        self._container: Any = None

    async def _create(self) -> None:
        daytona = installed("daytona")
        common = {
            "network_block_all": not self.limits.network,
            "ttl_minutes": math.ceil(self.lifetime_seconds / 60),
            **self._options,
        }
        if self._image is None:
            params = daytona.CreateSandboxFromSnapshotParams(snapshot=self._snapshot, **common)
        else:
            resources = daytona.Resources(
                memory=math.ceil(self.limits.memory_bytes / 2**30), disk=math.ceil(self.limits.disk_bytes / 2**30)
            )
            common.setdefault("resources", resources)
            params = daytona.CreateSandboxFromImageParams(image=self._image, **common)
        with self._named():
            account = {name: value for name, value in self._account.items() if value is not None}
            self._client = daytona.AsyncDaytona(daytona.DaytonaConfig(**account) if account else None)
            self._container = await self._client.create(params)

    async def _destroy(self) -> None:
        client, self._client = self._client, None
        container, self._container = self._container, None
        try:
            if container is not None:
                with self._named():
                    await client.delete(container)
        finally:
            if client is not None:
                await client.close()

    async def _shell(self, arguments: Sequence[str], seconds: float) -> str:
        with self._named():
            response = await self._container.process.exec(shlex.join(arguments), timeout=math.ceil(seconds))
        if response.exit_code != 0:
            raise SandboxError(f"Daytona: {response.result or response.exit_code}")
        return str(response.result)

    async def _put(self, path: str, content: bytes) -> None:
        with self._named():
            await self._container.fs.upload_file(content, path)

    async def _get(self, path: str) -> bytes:
        with self._named(path):
            return bytes(await self._container.fs.download_file(path))

    @contextmanager
    def _named(self, path: str = "") -> Iterator[None]:
        """Translate Daytona's errors."""
        daytona = installed("daytona")
        try:
            yield
        except daytona.DaytonaError as error:
            if path and isinstance(error, daytona.DaytonaNotFoundError):
                raise FileNotFoundError(f"no such file in the sandbox: {path}") from error
            raise SandboxError(f"Daytona: {error}") from error
