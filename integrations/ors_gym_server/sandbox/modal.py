"""Sandboxes at Modal (https://modal.com), by its package ``modal``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ors_gym_server.sandbox.base import SandboxError, SandboxLimits
from ors_gym_server.sandbox.remote import RemoteSandbox, installed

__all__ = ["ModalSandbox"]


class ModalSandbox(RemoteSandbox):
    """A container at Modal, made from an ``image`` in a registry or a ``modal.Image`` (default: Modal's own).

    Modal enforces the limits ``memory_bytes`` and ``network``. Authenticate with ``modal token``, or the variables
    ``MODAL_TOKEN_ID`` and ``MODAL_TOKEN_SECRET``; ``options`` (``cpu``, ``gpu``, ``secrets``, …) are passed to
    ``modal.Sandbox.create``.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        image: Any = None,
        app_name: str = "ors-gym",
        lifetime_seconds: int = 3600,
        **options: Any,
    ) -> None:
        super().__init__(limits, lifetime_seconds=lifetime_seconds)
        self._image, self._app_name, self._options = image, app_name, options
        self._container: Any = None

    async def _create(self) -> None:
        modal = installed("modal")
        image = modal.Image.from_registry(self._image) if isinstance(self._image, str) else self._image
        mebibytes = math.ceil(self.limits.memory_bytes / 2**20)
        with self._named():
            app = await modal.App.lookup.aio(self._app_name, create_if_missing=True)
            self._container = await modal.Sandbox.create.aio(
                app=app,
                image=image,
                timeout=self.lifetime_seconds,
                block_network=not self.limits.network,
                **{"memory": (min(128, mebibytes), mebibytes), **self._options},
            )

    async def _destroy(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            with self._named():
                await container.terminate.aio()

    async def _shell(self, arguments: Sequence[str], seconds: float) -> str:
        with self._named():
            process = await self._container.exec.aio(*arguments, timeout=math.ceil(seconds))
            printed = await process.stdout.read.aio()
            exit_code = await process.wait.aio()
            if exit_code != 0:
                raise SandboxError(f"Modal: {(await process.stderr.read.aio()).strip() or exit_code}")
        return str(printed)

    async def _put(self, path: str, content: bytes) -> None:
        with self._named():
            await self._container.filesystem.write_bytes.aio(content, path)

    async def _get(self, path: str) -> bytes:
        with self._named(path):
            return bytes(await self._container.filesystem.read_bytes.aio(path))

    @contextmanager
    def _named(self, path: str = "") -> Iterator[None]:
        """Translate Modal's errors."""
        errors = installed("modal").exception
        try:
            yield
        except errors.SandboxFilesystemNotFoundError as error:
            raise FileNotFoundError(f"no such file in the sandbox: {path}") from error
        except errors.Error as error:
            raise SandboxError(f"Modal: {error}") from error
