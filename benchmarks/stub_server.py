"""An ORS server that does almost no work, to measure clients: it sends the reference server's bytes.

``python benchmarks/stub_server.py [SECONDS]`` prints its port and serves until standard input closes; a tool call takes
SECONDS.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid

EVENT_STREAM = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 08:00:00 GMT\r\nserver: uvicorn\r\ncache-control: no-cache\r\n"
    b"connection: keep-alive\r\nx-accel-buffering: no\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
RESULT = {
    "ok": True,
    "output": {
        "blocks": [{"text": "a short observation of one line", "detail": None, "type": "text"}],
        "metadata": None,
        "reward": 0.0,
        "finished": False,
    },
}


def event(name: str, data: str) -> bytes:
    """One event as one HTTP chunk."""
    text = f"event: {name}\r\ndata: {data}\r\n\r\n".encode()
    return b"%x\r\n%s\r\n" % (len(text), text)


def json_answer(value: object) -> bytes:
    """A whole answer with a JSON body."""
    body = json.dumps(value).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


BEGIN = EVENT_STREAM + event("task_id", "f5b8d9f577fc4ad58123ea085c6070b7")
END = event("end", json.dumps(RESULT, separators=(",", ":"))) + b"0\r\n\r\n"
ANSWERS = {
    b"/list_environments": json_answer(["stub"]),
    b"/messages": json_answer([{"role": "user", "blocks": [{"text": "task", "detail": None, "type": "text"}]}]),
    b"/prompt": json_answer([{"text": "task", "detail": None, "type": "text"}]),
}
OK = json_answer({"status": "ok"})
TOOL_SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Answer every complete request in the buffer."""
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.received) < end + 4 + length:
                return
            self.received = self.received[end + 4 + length :]
            self.answer(head.split(b" ", 2)[1])

    def answer(self, path: bytes) -> None:
        """Write as uvicorn does: the head with the first event, then the rest."""
        if path.endswith(b"/call"):
            self.transport.write(BEGIN)
            if TOOL_SECONDS:
                asyncio.get_running_loop().call_later(TOOL_SECONDS, self.transport.write, END)
            else:
                self.transport.write(END)
        elif path == b"/create_session":
            self.transport.write(EVENT_STREAM + event("task_id", str(uuid.uuid4())) + event("end", "") + b"0\r\n\r\n")
        else:
            self.transport.write(ANSWERS.get(b"/" + path.rsplit(b"/", 1)[1], OK))


async def main() -> None:
    """Serve until standard input closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
