"""Running the checks: any behavior of the server is an outcome, never an exception."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ors_gym.client.client import ORSClient
from ors_gym.errors import ConnectError, ORSError
from ors_gym.testing.report import Check, CheckReport, Level, Outcome
from ors_gym.testing.server import DoesNotApplyError, NotAsStatedError, ServerUnderTest
from ors_gym.testing.statements import STATEMENTS, Statement

__all__ = ["check_server"]


async def check_server(
    url: str,
    *,
    env_name: str | None = None,
    split: str | None = None,
    index: int = 0,
    api_key: str | None = None,
    secrets: Mapping[str, str] | None = None,
    play: bool = False,
    seconds_per_check: float = 60.0,
    client_options: Mapping[str, Any] | None = None,
) -> CheckReport:
    """Check one environment of a server (default: the first) with one task of one split.

    An error of the server is a failed check, never an exception. ``secrets`` are the secrets that the environment
    needs, ``client_options`` further arguments of :class:`~ors_gym.ORSClient`. With ``play``, tasks are also played to
    check that reopened tasks are the same; otherwise only their prompts are compared.
    """
    options: dict[str, Any] = {"api_key": api_key, **(client_options or {})}
    checks: list[Check] = []
    async with ORSClient(url, **options) as client:
        server = ServerUnderTest(client, env_name or "", split or "", index, secrets or {}, play)
        try:
            for statement in STATEMENTS:
                checks.append(await _check(statement, server, seconds_per_check))
                if not server.reached:
                    break
        finally:
            if server.session is not None:
                await server.session.close()
    return CheckReport(client.url, server.env_name, tuple(checks))


async def _check(statement: Statement, server: ServerUnderTest, seconds: float) -> Check:
    outcome = Outcome.FAIL
    try:
        async with asyncio.timeout(seconds):
            message = await statement.check(server)
        outcome = Outcome.PASS
    except DoesNotApplyError as reason:
        outcome, message = Outcome.SKIP, str(reason)
    except NotAsStatedError as fault:
        message = str(fault)
    except ConnectError as error:
        server.reached = False
        message = f"the server was not reached: {error}"
    except TimeoutError:
        server.reached = statement.number != "1.1"  # do not wait again for a server that never answered
        message = f"no answer within {seconds:g} seconds"
    except ORSError as error:
        message = f"{type(error).__name__}: {error}"
    except Exception as error:  # a server's answer may break a check unexpectedly
        message = f"invalid answer ({type(error).__name__}: {str(error)[:500]})"
    if outcome is Outcome.FAIL and statement.level is not Level.REQUIRED and server.reached:
        outcome = Outcome.WARN
    source = statement.number, statement.level, statement.reference
    return Check(statement.name, statement.words, outcome, message, *source)
