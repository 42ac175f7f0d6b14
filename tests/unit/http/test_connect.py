"""Connections by name, through proxies and over TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from ors_gym.client.client import ORSClient, Timeouts
from ors_gym.errors import CertificateError, ConnectError, StatusError
from ors_gym.http import connect
from ors_gym.http.proxies import proxy_for
from tests.support.scripted_server import ScriptedORS

ONE_TRY = Timeouts(connect_seconds=2, close_seconds=2)


def clean(monkeypatch, **variables: str) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


# ------------------------------------------------------------------- names


def addresses(monkeypatch, *found: tuple[socket.AddressFamily, tuple]) -> None:
    """Have every name stand for these addresses."""

    async def look_up(host: str, port: int) -> list:
        return list(found)

    monkeypatch.setattr(connect, "_addresses", look_up)


async def never(sock: socket.socket, address: object) -> None:
    await asyncio.Event().wait()


def test_a_name_whose_first_address_is_dead_is_reached_through_the_next_and_it_is_remembered(monkeypatch):
    tried: list[str] = []

    async def conversation() -> None:
        async with ScriptedORS() as server:
            port = int(server.url.rpartition(":")[2])
            addresses(monkeypatch, (socket.AF_INET, ("127.0.0.9", port)), (socket.AF_INET, ("127.0.0.1", port)))
            loop = asyncio.get_running_loop()
            real = loop.sock_connect

            async def dead_or_alive(sock: socket.socket, address: tuple) -> None:
                tried.append(address[0])
                await (never(sock, address) if address[0] == "127.0.0.9" else real(sock, address))

            monkeypatch.setattr(loop, "sock_connect", dead_or_alive)
            dialer = connect.Dialer(connect_seconds=10)
            for _ in range(2):
                (await dialer.connect("name", port, tunnel=False)).close()

    asyncio.run(asyncio.wait_for(conversation(), 5))
    assert tried == ["127.0.0.9", "127.0.0.1", "127.0.0.1"]


def test_an_address_that_refuses_is_followed_by_the_next_at_once(monkeypatch):
    monkeypatch.setattr(connect, "NEXT_ADDRESS_SECONDS", 60.0)

    async def conversation() -> None:
        async with ScriptedORS() as server:
            port = int(server.url.rpartition(":")[2])
            addresses(monkeypatch, (socket.AF_INET, ("127.0.0.2", 9)), (socket.AF_INET, ("127.0.0.1", port)))
            (await connect.Dialer(connect_seconds=10).connect("name", port, tunnel=False)).close()

    asyncio.run(asyncio.wait_for(conversation(), 20))


def test_every_address_that_failed_is_named(monkeypatch):
    addresses(monkeypatch, (socket.AF_INET, ("127.0.0.2", 9)), (socket.AF_INET, ("127.0.0.3", 9)))
    with pytest.raises(ConnectError, match=r"127\.0\.0\.2.*127\.0\.0\.3"):
        asyncio.run(connect.Dialer(connect_seconds=10).connect("name", 9, tunnel=False))


def test_a_silent_name_service_is_called_that(monkeypatch):
    async def silent(host: str, port: int) -> list:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(connect, "_addresses", silent)
    with pytest.raises(ConnectError, match="DNS does not answer"):
        asyncio.run(connect.Dialer(connect_seconds=0.05).connect("name", 9, tunnel=False))


def test_the_two_families_of_a_name_are_tried_in_turn(monkeypatch):
    four, six = socket.AF_INET, socket.AF_INET6

    async def conversation() -> list:
        async def look_up(host: str, port: int, **_: object) -> list:
            return [(six, 1, 6, "", ("a", 1)), (six, 1, 6, "", ("b", 1)), (four, 1, 6, "", ("c", 1))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
        return await connect._addresses("name", 1)

    assert [address[1][0] for address in asyncio.run(conversation())] == ["a", "c", "b"]


# ------------------------------------------------------------------- proxies


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.8.0.1", "https://[::1]:2", "http://a.localhost"])
def test_this_machine_is_never_reached_through_a_proxy(monkeypatch, url):
    clean(monkeypatch, http_proxy="http://p:1", https_proxy="http://p:1", all_proxy="http://p:1")
    assert proxy_for(url) is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("192.168.1.7", "http://192.168.1.7:80", True),
        ("fd00::/8", "http://[fd12::1]:80", True),
        ("example.com", "http://a.example.com", True),
        (".example.com", "http://a.example.com", True),
        ("example.com:81", "http://example.com:80", False),
        ("*", "http://example.com", True),
        ("nonsense/99, 10.0.0.0/8", "http://10.0.0.1", True),
    ],
)
def test_no_proxy_names_hosts_suffixes_addresses_and_ranges(monkeypatch, no_proxy, url, direct):
    clean(monkeypatch, http_proxy="http://p:1", no_proxy=no_proxy)
    assert (proxy_for(url) is None) is direct


class Proxy:
    """An HTTP proxy that forwards to one server whatever it is asked for, or refuses."""

    def __init__(self, target: str, refuse: bytes = b"") -> None:
        self.heads: list[bytes] = []
        self._host, _, port = target.rpartition("//")[2].rpartition(":")
        self._port, self._refuse = int(port), refuse

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://ann:pass%40word@127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if self._refuse:
            writer.write(self._refuse)
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            up_writer.write(head)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while piece := await source.read(65536):
                    sink.write(piece)
                    await sink.drain()
            except ConnectionError:
                pass
            finally:
                sink.close()

        await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))


def test_plain_requests_go_through_a_proxy_in_absolute_form(monkeypatch):
    async def conversation() -> bytes:
        async with ScriptedORS() as server, Proxy(server.url) as proxy:
            clean(monkeypatch, http_proxy=proxy.url)
            async with ORSClient("http://ors.example:81/base") as client:
                assert await client.list_environments() == ("bad",)
            return proxy.heads[0]

    head = asyncio.run(conversation())
    assert head.startswith(b"GET http://ors.example:81/base/list_environments HTTP/1.1\r\nHost: ors.example:81\r\n")
    assert b"Proxy-Authorization: Basic YW5uOnBhc3NAd29yZA==\r\n" in head  # ann:pass@word


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ors.example"]
    names = ["-addext", "subjectAltName=DNS:ors.example,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*request, *names], check=True, capture_output=True)
    return cert, key


class TLSServer(ScriptedORS):
    """The scripted server over TLS."""

    def __init__(self, certificate: tuple[Path, Path], client_ca: Path | None = None) -> None:
        super().__init__()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        if client_ca:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(client_ca)
        self.handshakes = 0

    async def __aenter__(self) -> TLSServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self


def test_tls_goes_through_a_tunnel(monkeypatch, certificate):
    async def conversation() -> bytes:
        async with TLSServer(certificate) as server, Proxy(server.url) as proxy:
            clean(monkeypatch, https_proxy=proxy.url)
            async with ORSClient("https://ors.example", verify=str(certificate[0])) as client:
                assert await client.list_environments() == ("bad",)
            return proxy.heads[0]

    assert asyncio.run(conversation()).startswith(b"CONNECT ors.example:443 HTTP/1.1\r\nHost: ors.example:443\r\n")


@pytest.mark.parametrize(
    ("refuse", "words"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "503 Service Unavailable"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "asks for credentials"),
        (b"what?\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200", "no HTTP"),
    ],
)
def test_a_refused_tunnel_was_certainly_not_sent_and_the_proxy_is_named_without_its_password(
    monkeypatch, refuse, words
):
    async def conversation() -> ConnectError:
        async with Proxy("http://127.0.0.1:9", refuse) as proxy:
            clean(monkeypatch, https_proxy=proxy.url)
            async with ORSClient("https://ors.example", timeouts=ONE_TRY) as client:
                with pytest.raises(ConnectError, match=words) as caught:
                    await client.list_environments()
                return caught.value

    text = str(asyncio.run(conversation()))
    assert "127.0.0.1" in text
    assert "HTTPS_PROXY" in text
    assert "pass" not in text.replace("Pass ", "")


def test_a_proxy_that_is_not_there_is_named(monkeypatch):
    clean(monkeypatch, http_proxy="http://ann:secret@127.0.0.1:9")

    async def conversation() -> None:
        async with ORSClient("http://ors.example", timeouts=ONE_TRY) as client:
            await client.list_environments()

    with pytest.raises(ConnectError, match=r"the proxy http://127\.0\.0\.1:9 \(HTTP_PROXY\)") as caught:
        asyncio.run(conversation())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://p:99999", "ftp://p", "http://"])
def test_a_proxy_that_cannot_be_used_is_one_line(monkeypatch, proxy):
    clean(monkeypatch, http_proxy=proxy)
    with pytest.raises(ValueError, match="HTTP_PROXY"):
        ORSClient("http://ors.example")


# ------------------------------------------------------------------- TLS


def test_a_certificate_that_is_not_trusted_is_tried_once_and_says_what_to_set(certificate):
    async def conversation() -> None:
        async with TLSServer(certificate) as server:
            handshakes = 0
            real = asyncio.get_running_loop().create_connection

            async def counted(*args: object, **options: object) -> object:
                nonlocal handshakes
                handshakes += 1
                return await real(*args, **options)

            asyncio.get_running_loop().create_connection = counted
            async with ORSClient(server.url) as client:
                with pytest.raises(CertificateError, match=r"verify='ca\.pem'.*SSL_CERT_FILE"):
                    await client.list_environments()
            assert handshakes == 1

    asyncio.run(conversation())


def test_a_private_authority_and_a_client_certificate_are_given_by_paths(certificate):
    async def conversation() -> None:
        async with TLSServer(certificate, client_ca=certificate[0]) as server:
            async with ORSClient(server.url, verify=str(certificate[0]), cert=certificate) as client:
                assert await client.list_environments() == ("bad",)

    asyncio.run(conversation())


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_variable_that_names_no_certificates_is_named(monkeypatch, tmp_path, variable):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "nothing.pem"))
    with pytest.raises(ValueError, match=rf"{variable}=.*no such file"):
        ORSClient("https://ors.example")


def test_a_file_without_certificates_is_named(tmp_path):
    (tmp_path / "empty.pem").write_text("nothing\n")
    for options in ({"verify": str(tmp_path / "empty.pem")}, {"cert": str(tmp_path / "empty.pem")}):
        with pytest.raises(ValueError, match=r"empty\.pem"):
            ORSClient("https://ors.example", **options)


def test_a_redirect_shows_its_target():
    async def conversation() -> None:
        page = b"<html><title>301 Moved</title></html>"
        head = f"HTTP/1.1 301 Moved\r\nLocation: https://ors.example/x\r\nContent-Length: {len(page)}\r\n\r\n"
        async with ScriptedORS({"list_environments": head.encode() + page}) as server:
            async with ORSClient(server.url) as client:
                with pytest.raises(StatusError, match=r"https://ors\.example/x"):
                    await client.list_environments()

    asyncio.run(conversation())
