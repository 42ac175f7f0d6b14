"""``ors-gym list``: a server's environments, splits and tools; without a server, the hosted catalogue."""

from __future__ import annotations

import argparse
import asyncio
import os

from rich.console import Console

from ors_gym.cli.arguments import SERVER_HELP, add_connection_options, choose_env, make_client
from ors_gym.cli.exits import InputError
from ors_gym.cli.output import print_tools, say
from ors_gym.client.address import PLATFORM, key_from_environment
from ors_gym.client.client import ORSClient

__all__ = ["HELP", "add_options", "list_command"]

HELP = "List a server's environments, splits and tools; without a server, the names of the hosted catalogue."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("url", nargs="?", help=SERVER_HELP)
    parser.add_argument("--env", metavar="NAME", help="the environment (default: all)")
    add_connection_options(parser)


def list_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    asyncio.run(_list_server(arguments, console) if arguments.url else _list_catalogue(arguments, console))
    return 0


async def _list_server(arguments: argparse.Namespace, console: Console) -> None:
    async with make_client(arguments) as client:
        names = [await choose_env(client, arguments.env)] if arguments.env else await client.list_environments()
        for name in names:
            say(console, name, "bold")
            for split in await client.list_splits(name):
                count = await client.num_tasks(name, split.name)
                kind = "" if split.type == split.name else f"  ({split.type})"
                say(console, f"  {split.name}{kind}  {count:,} task{'' if count == 1 else 's'}")
            tools = await client.list_tools(name)
            print_tools(console, tools.tools)
            if tools.terminal_tool is not None:
                say(console, f"  a plain message is sent to {tools.terminal_tool.name} and ends the episode")
            for secret in await client.list_required_secrets(name):
                state = "" if secret in os.environ else ", which is not set here"
                say(console, f"  needs --secret {secret} (read from the environment variable{state})")


async def _list_catalogue(arguments: argparse.Namespace, console: Console) -> None:
    key = arguments.api_key or key_from_environment(hosted=True)
    if not key:
        raise InputError("name a server, or set OPENREWARD_API_KEY to list the hosted catalogue")
    async with ORSClient(os.environ.get("OPENREWARD_URL") or PLATFORM, api_key=key, hosted=True) as client:
        offset = 0
        while page := await client.list_catalogue(offset):
            for name, description in page:
                say(console, f"{name}  {' '.join(description.split())[:80]}".rstrip())
            offset += len(page)
            if len(page) < 100:
                break
