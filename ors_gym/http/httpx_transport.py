"""Requests over httpx or httpx2, for what only they can carry: a transport, a client, an auth object or a proxy.

:class:`~ors_gym.http.asyncio_transport.AsyncioTransport` is the default: httpx's own pool scans all connections for
every request (CPU time of a call: 1.5 ms at 16 concurrent sessions, 9 ms at 256, 32 ms at 1,024; httpx2 2.16 takes
half of httpx's time at 16). Neither follows redirects: headers with keys and secrets go to the configured server only.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx

from ors_gym.errors import CertificateError, ConnectError, ConnectionLostError, RequestTimeoutError
from ors_gym.http.proxies import ProxyServer
from ors_gym.http.transport import TransportResponse, read_body

if TYPE_CHECKING:
    import httpx2

__all__ = ["HTTPXClient", "HTTPXTransport"]

HTTPXClient: TypeAlias = "httpx.AsyncClient | httpx2.AsyncClient"
"""httpx2 has the same interface and its own exceptions. It is optional, used for a client of the user's."""


class HTTPXTransport:
    """An ``httpx.AsyncClient``: the user's own, or one made from the user's transport, proxy or auth.

    ``knows_unsent`` says whether its ``ConnectError`` can be trusted to mean that nothing was sent. Foreign
    transports cannot: ``httpx-aiohttp`` reports a connection cut after the request as a connect timeout.
    """

    def __init__(
        self,
        client: HTTPXClient,
        *,
        owned: bool,
        knows_unsent: bool,
        connect_seconds: float,
        proxy: ProxyServer | None = None,
    ) -> None:
        self._via = f"through the proxy {proxy.shown}: " if proxy else ""
        self.knows_unsent = knows_unsent
        self._library = _library_of(client)
        self._client: Any = client
        self._owned = owned
        self._timeout = self._library.Timeout(None, connect=connect_seconds)

    @asynccontextmanager
    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncGenerator[TransportResponse]:
        """Send a request and stream its answer."""
        with _translate_httpx_errors(self._library, self._via):
            if self._owned:
                self._client.cookies.clear()  # sessions send their own
            request = self._client.build_request(method, url, headers=headers, content=body, timeout=self._timeout)
            response = await self._client.send(request, stream=True, follow_redirects=False)
            try:
                yield _HTTPXResponse(response)
            finally:
                await response.aclose()

    async def aclose(self) -> None:
        """Close the client, unless it is the user's own."""
        if self._owned:
            await self._client.aclose()


class _HTTPXResponse:
    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status_code
        cookies = "\n".join(response.headers.get_list("set-cookie"))
        self.headers: Mapping[str, str] = {**response.headers} | ({"set-cookie": cookies} if cookies else {})

    async def read(self) -> bytes:
        return await read_body(self.chunks())

    def chunks(self) -> AsyncIterator[bytes]:
        chunks: AsyncIterator[bytes] = self._response.aiter_bytes()
        return chunks


def _library_of(client: object) -> Any:
    """The module httpx or httpx2, by whose ``AsyncClient`` a client is one.

    Raises:
        ValueError: it is something else.
    """
    for each in type(client).__mro__:
        library = each.__module__.partition(".")[0]
        if library in ("httpx", "httpx2") and each.__name__ == "AsyncClient":
            return importlib.import_module(library)
    kind = f"{type(client).__module__}.{type(client).__qualname__}"
    raise ValueError(f"http_client must be an httpx.AsyncClient or an httpx2.AsyncClient, got {kind}")


@contextmanager
def _translate_httpx_errors(library: Any, via: str) -> Generator[None]:
    unsent = library.ConnectError, library.ConnectTimeout, library.PoolTimeout
    try:
        yield
    except (*unsent, library.UnsupportedProtocol, library.ProxyError) as error:
        untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
        raise (CertificateError if untrusted else ConnectError)(via + _cause(error)) from error
    except library.TimeoutException as error:
        raise RequestTimeoutError(via + _cause(error)) from error
    except (library.HTTPError, library.StreamError, OSError) as error:
        raise ConnectionLostError(via + _cause(error)) from error


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
