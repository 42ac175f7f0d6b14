"""A case of the table, as a program: plays on the servers that its input lists and prints what came of it as JSON.

It needs the client alone, so an older one can run it: ``PYTHONPATH=… python tests/network/case.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid

from ors_gym import ORSClient

LONG_SECONDS = 75.0
CUT_SECONDS = 15.0
MEMBERS = 64
LIMIT_SECONDS = 300.0


async def fast(client: ORSClient) -> str:
    """Eight sessions at once, five calls each; every prompt is its own."""
    prompts = await asyncio.gather(*(play(client, index, 5) for index in range(8)))
    wrong = [index for index, prompt in enumerate(prompts) if prompt != f"task {index}"]
    return f"{len(wrong)} of 8 prompts of another session" if wrong else ""


async def play(client: ORSClient, index: int, calls: int) -> str:
    async with client.session("bench", split="train", index=index) as session:
        prompt = await session.get_prompt()
        for _ in range(calls):
            await session.call_tool("wait", {"seconds": 0.0, "key": uuid.uuid4().hex})
        return prompt[0].text


async def long(client: ORSClient) -> str:
    """One call longer than the proxies' limit of 60 s."""
    return await once(client, LONG_SECONDS)


async def cut(client: ORSClient) -> str:
    """One call in the middle of which the proxy is started again."""
    return await once(client, CUT_SECONDS)


async def once(client: ORSClient, seconds: float) -> str:
    key = uuid.uuid4().hex
    async with client.session("bench", split="train", index=0) as session:
        print("calling", file=sys.stderr, flush=True)
        try:
            await session.call_tool("wait", {"seconds": seconds, "key": key})
            fault = ""
        except Exception as error:
            fault = f"{type(error).__name__}"
    async with client.session("bench", split="train", index=0) as session:
        runs = (await session.call_tool("runs", {"key": key})).text
    return fault + (f" ran {runs} times" if runs != "1" else "")


async def large(client: ORSClient) -> str:
    """Three results of 3 MB."""
    async with client.session("bench", split="train", index=0) as session:
        for _ in range(3):
            output = await session.call_tool("large", {"size": 3_000_000})
            if len(output.text) != 3_000_000:
                return f"{len(output.text)} characters"
    return ""


async def members(client: ORSClient) -> str:
    """64 sessions at once, three calls each."""
    await asyncio.gather(*(play(client, index, 3) for index in range(MEMBERS)))
    return ""


CASES = {"fast": fast, "75 s": long, "3 MB": large, "64 members": members, "restart": cut}
AT_ONCE = ("75 s", "restart")
"""Cases that wait: those of all proxies at once."""


async def outcome(item: dict[str, str]) -> str:
    os.environ.pop("http_proxy", None)
    if item["http_proxy"]:
        os.environ["http_proxy"] = item["http_proxy"]
    client = ORSClient(item["url"])
    started = time.monotonic()
    try:
        async with asyncio.timeout(LIMIT_SECONDS), client:
            fault = await CASES[item["case"]](client)
    except Exception as error:
        fault = f"{type(error).__name__}: {str(error)[:60]}"
    return fault or f"{time.monotonic() - started:.1f} s"


async def main() -> None:
    items = json.load(sys.stdin)
    together = items[0]["case"] in AT_ONCE
    print(json.dumps(await asyncio.gather(*map(outcome, items)) if together else [await outcome(i) for i in items]))


if __name__ == "__main__":
    asyncio.run(main())
