"""Connections to a host name, to the first of its addresses that answers, directly or through a proxy.

asyncio's own ``happy_eyeballs_delay`` is unknown to uvloop, on which Ray's async actors run.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import socket
from collections.abc import Sequence
from typing import Any, TypeAlias

from ors_gym.errors import ConnectError
from ors_gym.http.proxies import ProxyServer

__all__ = ["Dialer"]

NEXT_ADDRESS_SECONDS = 0.25
"""Delay before the next address is tried in parallel (RFC 8305)."""

MAX_REPLY_BYTES = 64 * 1024
"""Maximum bytes of a reply to CONNECT."""

Address: TypeAlias = "tuple[socket.AddressFamily, Any]"


class Dialer:
    """Opens sockets and remembers which address of a host answered."""

    def __init__(self, *, connect_seconds: float, proxy: ProxyServer | None = None) -> None:
        self._seconds = connect_seconds
        self._proxy = proxy
        self._answered: dict[tuple[str, int], Address] = {}

    async def connect(self, host: str, port: int, *, tunnel: bool) -> socket.socket:
        """A connected, non-blocking socket; through a proxy, ``tunnel`` asks it to pass bytes on to ``host``.

        Raises:
            ConnectError: there is none, and nothing was sent to ``host``.
            TimeoutError: the caller's own limit ended.
        """
        proxy = self._proxy
        if proxy is None:
            return await self._open(host, port, f"{host}:{port}")
        sock = await self._open(*proxy.address, f"the proxy {proxy.shown}")
        if tunnel:
            try:
                await self._tunnel(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", proxy)
            except BaseException:
                sock.close()
                raise
        return sock

    async def _open(self, host: str, port: int, named: str) -> socket.socket:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._seconds
        try:
            async with asyncio.timeout_at(until):
                addresses = await _addresses(host, port)
        except TimeoutError:
            raise ConnectError(f"no address for {named} within {self._seconds:g} s: DNS does not answer") from None
        except OSError as error:
            raise ConnectError(f"no address for {named} ({error.strerror or error})") from error
        known = self._answered.get((host, port))
        if known in addresses:
            addresses.remove(known)
            addresses.insert(0, known)
        try:
            async with asyncio.timeout_at(until):
                self._answered[host, port], sock = await _first_to_answer(addresses)
        except TimeoutError:
            raise ConnectError(f"no connection to {named} within {self._seconds:g} s") from None
        except OSError as error:
            raise ConnectError(f"no connection to {named} ({error})") from error
        return sock

    async def _tunnel(self, sock: socket.socket, target: str, proxy: ProxyServer) -> None:
        loop = asyncio.get_running_loop()
        request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{proxy.authorization}\r\n".encode("latin-1")
        reply = b""
        refused = f"the proxy {proxy.shown} did not connect to {target}"
        try:
            async with asyncio.timeout(self._seconds):
                await loop.sock_sendall(sock, request)
                while b"\r\n\r\n" not in reply and len(reply) < MAX_REPLY_BYTES:
                    piece = await loop.sock_recv(sock, 4096)
                    if not piece:
                        break
                    reply += piece
        except TimeoutError:
            raise ConnectError(f"{refused} within {self._seconds:g} s") from None
        except OSError as error:
            raise ConnectError(f"{refused} ({error})") from error
        line = reply.partition(b"\r\n")[0].decode("latin-1")
        status = line.split(" ", 2)
        if not line.startswith("HTTP/1.") or len(status) < 2 or b"\r\n\r\n" not in reply:
            raise ConnectError(f"{refused}: its reply is no HTTP")
        if not status[1].startswith("2"):
            wants = ", and asks for credentials" if status[1] == "407" else ""
            raise ConnectError(f"{refused}: it answered {line.partition(' ')[2][:200]}{wants}")


async def _addresses(host: str, port: int) -> list[Address]:
    """The addresses of a host, alternating between IPv6 and IPv4."""
    with contextlib.suppress(ValueError):
        literal = ipaddress.ip_address(host)
        if literal.version == 4:
            return [(socket.AF_INET, (host, port))]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses: list[Address] = [(family, address) for family, _, _, _, address in found]
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    pairs = itertools.zip_longest(first, others)
    return [each for pair in pairs for each in pair if each is not None]


async def _first_to_answer(addresses: Sequence[Address]) -> tuple[Address, socket.socket]:
    """Connect to the first address that answers; the next one is tried when the previous is slow or refuses."""
    if len(addresses) == 1:
        return addresses[0], await _connected(addresses[0])
    waiting = list(addresses)
    running: dict[asyncio.Task[socket.socket], Address] = {}
    faults: list[str] = []
    try:
        while waiting or running:
            if waiting:
                address = waiting.pop(0)
                running[asyncio.ensure_future(_connected(address))] = address
            limit = NEXT_ADDRESS_SECONDS if waiting else None
            done, _ = await asyncio.wait(running, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    return running.pop(task), task.result()
                del running[task]
                faults.append(str(error))
        raise OSError("; ".join(dict.fromkeys(faults)))
    finally:
        for task in running:
            task.cancel()
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(outcome, socket.socket):
                outcome.close()


async def _connected(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY by the protocol
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock
