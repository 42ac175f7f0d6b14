"""``ors-gym list``: a server's environments, splits and tools."""

from __future__ import annotations

import argparse
import asyncio

from rich.console import Console

from ors_gym.cli.arguments import add_server_options, choose_env, make_client
from ors_gym.cli.output import print_tools, say

__all__ = ["HELP", "add_options", "list_command"]

HELP = "List a server's environments, splits and tools."

add_options = add_server_options


def list_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""

    async def show() -> None:
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
                    say(console, f"  a plain message goes to {tools.terminal_tool.name} and ends it")

    asyncio.run(show())
    return 0
