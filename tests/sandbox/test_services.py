"""The services' own packages, talking to a server here that answers as the service does and runs commands for real.

Each test needs its package (``pip install e2b daytona modal``), which is no dependency of ours; it is skipped where
that is not installed. Modal's protocol is not played here: of its calls, the signatures are checked.
"""

from __future__ import annotations

import asyncio
import inspect
import shlex
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from ors_gym_server.sandbox import DaytonaSandbox, E2BSandbox, ModalSandbox, SandboxError, SandboxLimits
from ors_gym_server.sandbox.remote import RemoteSandbox

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the packages' own, and those of theirs


def run(conversation: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(conversation, 60))


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The app on a free port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def shell(command: str, directory: str) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", command, cwd=directory, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    return process.returncode or 0, printed


async def use(sandbox: RemoteSandbox) -> None:
    """What every sandbox at a service must do."""
    async with sandbox:
        result = await sandbox.run("cat; echo oops >&2; exit 3", stdin="hello\n")
        assert (result.exit_code, result.stdout, result.stderr) == (3, "hello\n", "oops\n")
        await sandbox.upload(b"a\0b\xff", "d/f")
        assert await sandbox.download("d/f") == b"a\0b\xff"
        late = await sandbox.run("sleep 60", timeout_seconds=0.1)
        assert late.timed_out
        with pytest.raises(FileNotFoundError):
            await sandbox.download("nothing")


def test_e2b():
    pytest.importorskip("e2b")
    from e2b.envd.process import process_connect, process_pb
    from protobuf import Oneof

    log: list[Any] = []

    async def conversation():
        with tempfile.TemporaryDirectory() as directory:

            class Processes(process_connect.Process):
                async def start(self, request, ctx):
                    config = request.process
                    assert config.cmd == "/bin/bash"
                    yield process_pb.StartResponse(
                        event=process_pb.ProcessEvent(event=Oneof("start", process_pb.ProcessEvent.StartEvent(pid=1)))
                    )
                    code, printed = await shell(config.args[-1], directory)
                    data = process_pb.ProcessEvent.DataEvent(output=Oneof("stdout", printed))
                    yield process_pb.StartResponse(event=process_pb.ProcessEvent(event=Oneof("data", data)))
                    end = process_pb.ProcessEvent.EndEvent(exit_code=code, exited=True, status=f"exit status {code}")
                    yield process_pb.StartResponse(event=process_pb.ProcessEvent(event=Oneof("end", end)))

            async def create(request: Request) -> Response:
                log.append(await request.json())
                log.append(request.headers["x-api-key"])
                machine = {"templateID": "base", "sandboxID": "one", "clientID": "c", "envdVersion": "0.5.8"}
                return JSONResponse(machine, 201)

            async def kill(request: Request) -> Response:
                log.append(f"killed {request.path_params['name']}")
                return Response(status_code=204)

            async def files(request: Request) -> Response:
                path = Path(request.query_params["path"])
                if request.method == "GET":
                    if not path.exists():
                        return JSONResponse({"code": 404, "message": f"path '{path}' does not exist"}, 404)
                    return Response(path.read_bytes())
                path.parent.mkdir(parents=True, exist_ok=True)
                async with request.form() as form:
                    path.write_bytes(await form["file"].read())  # type: ignore[union-attr]
                return JSONResponse([{"name": path.name, "path": str(path), "type": "file"}])

            app = Starlette(
                routes=[
                    Route("/v2/sandboxes", create, methods=["POST"]),
                    Route("/sandboxes/{name}", kill, methods=["DELETE"]),
                    Route("/files", files, methods=["GET", "POST"]),
                    Mount("/", process_connect.ProcessASGIApplication(Processes())),
                ]
            )
            async with serving(app) as url:
                key = f"e2b_{'0' * 40}"
                await use(E2BSandbox(api_key=key, api_url=url, sandbox_url=url, lifetime_seconds=600))
                assert log[0]["timeout"] == 600
                assert log[0]["allow_internet_access"] is False
                assert log[1:] == [key, "killed one"]
            with pytest.raises(SandboxError, match="E2B"):
                await E2BSandbox(api_key=key, api_url=url, sandbox_url=url, retries=0).start()

    run(conversation())


def test_daytona():
    pytest.importorskip("daytona")
    log: list[Any] = []

    async def conversation():
        with tempfile.TemporaryDirectory() as directory:
            where = ""
            record: dict[str, Any] = {}

            async def create(request: Request) -> Response:
                nonlocal record
                asked = await request.json()
                log.append(asked)
                log.append(request.headers["authorization"])
                record |= {
                    "id": "one",
                    "organizationId": "o",
                    "name": "n",
                    "user": "u",
                    "env": {},
                    "labels": {},
                    "public": False,
                    "networkBlockAll": asked["networkBlockAll"],
                    "kvm": False,
                    "target": "t",
                    "cpu": 1,
                    "gpu": 0,
                    "memory": 1,
                    "disk": 1,
                    "state": "started",
                    "sandboxClass": "container",
                    "toolboxProxyUrl": where + "/toolbox",
                }
                return JSONResponse(record)

            async def delete(request: Request) -> Response:
                log.append(f"deleted {request.path_params['name']}")
                return JSONResponse(record)

            async def execute(request: Request) -> Response:
                asked = await request.json()
                code, printed = await shell(asked["command"], directory)
                return JSONResponse({"exitCode": code, "result": printed.decode()})

            async def upload(request: Request) -> Response:
                async with request.form() as form:
                    path = Path(str(form["files[0].path"]))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(await form["files[0].file"].read())  # type: ignore[union-attr]
                return JSONResponse({})

            async def download(request: Request) -> Response:
                path = Path((await request.json())["paths"][0])
                found = path.exists()
                kind = "application/octet-stream" if found else "application/json"
                missing = b'{"message": "file not found", "statusCode": 404, "code": "FILE_NOT_FOUND"}'
                head = (
                    f'--cut\r\nContent-Disposition: form-data; name="{"file" if found else "error"}"; filename="{path}"'
                )
                body = path.read_bytes() if found else missing
                content = head.encode() + f"\r\nContent-Type: {kind}\r\n\r\n".encode() + body + b"\r\n--cut--\r\n"
                return Response(content, media_type="multipart/form-data; boundary=cut")

            app = Starlette(
                routes=[
                    Route("/sandbox", create, methods=["POST"]),
                    Route("/sandbox/{name}", delete, methods=["DELETE"]),
                    Route("/toolbox/one/process/execute", execute, methods=["POST"]),
                    Route("/toolbox/one/files/bulk-upload", upload, methods=["POST"]),
                    Route("/toolbox/one/files/upload-v2", upload, methods=["POST"]),
                    Route("/toolbox/one/files/bulk-download", download, methods=["POST"]),
                ]
            )
            async with serving(app) as url:
                where = url
                limits = SandboxLimits(memory_bytes=2 * 2**30, disk_bytes=3 * 2**30)
                await use(DaytonaSandbox(limits, image="debian:12", api_key="hush", api_url=url, lifetime_seconds=90))
                asked = log[0]
                assert (asked["networkBlockAll"], asked["memory"], asked["disk"]) == (True, 2, 3)
                assert asked["ttlMinutes"] == 2
                assert log[1:] == ["Bearer hush", "deleted one"]

    run(conversation())


class Takes:
    """A method of Modal's as we call it: the real signature must take the arguments; the answer is ours."""

    def __init__(self, real: Any, answer: Any, *, method: bool) -> None:
        self.signature, self.answer, self.method = inspect.signature(real), answer, method

    async def aio(self, *arguments: Any, **named: Any) -> Any:
        self.signature.bind(*([None] if self.method else []), *arguments, **named)
        return await self.answer(*arguments, **named)


def test_modal(monkeypatch, tmp_path):
    modal: Any = pytest.importorskip("modal")
    from modal.container_process import ContainerProcess
    from modal.io_streams import StreamReader
    from modal.sandbox.sandbox import SandboxFilesystem

    log: list[Any] = []

    class Stream:
        def __init__(self, text: str) -> None:
            async def read() -> str:
                return text

            self.read = Takes(StreamReader.read, read, method=True)

    class Process:
        def __init__(self, code: int, printed: bytes) -> None:
            async def wait() -> int:
                return code

            self.stdout, self.stderr = Stream(printed.decode()), Stream("")
            self.wait = Takes(ContainerProcess.wait, wait, method=True)

    class Container:
        def __init__(self) -> None:
            async def execute(*arguments: str, timeout: int) -> Process:
                return Process(*await shell(shlex.join(arguments), str(tmp_path)))

            async def terminate() -> None:
                log.append("terminated")

            async def write(content: bytes, path: str) -> None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_bytes(content)

            async def read(path: str) -> bytes:
                with suppress(FileNotFoundError):
                    return Path(path).read_bytes()
                raise modal.exception.SandboxFilesystemNotFoundError(path)

            self.exec = Takes(modal.Sandbox.exec, execute, method=True)
            self.terminate = Takes(modal.Sandbox.terminate, terminate, method=True)
            self.filesystem = type("Files", (), {})()
            self.filesystem.write_bytes = Takes(SandboxFilesystem.write_bytes, write, method=True)
            self.filesystem.read_bytes = Takes(SandboxFilesystem.read_bytes, read, method=True)

    async def look_up(name: str, create_if_missing: bool) -> str:
        return name

    async def create(**asked: Any) -> Container:
        log.append(asked)
        return Container()

    monkeypatch.setattr(modal.App, "lookup", Takes(modal.App.lookup, look_up, method=False))
    monkeypatch.setattr(modal.Sandbox, "create", Takes(modal.Sandbox.create, create, method=False))

    async def conversation():
        await use(ModalSandbox(SandboxLimits(memory_bytes=2**28), image="debian:12", lifetime_seconds=60, cpu=0.5))
        assert isinstance(log[0].pop("image"), modal.Image)
        expected = {"app": "ors-gym", "timeout": 60, "block_network": True, "memory": (128, 256), "cpu": 0.5}
        assert log == [expected, "terminated"]

    run(conversation())
