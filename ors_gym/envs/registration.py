"""Registration of environments in Gymnasium.

Gymnasium 1 reads no entry points: a package registers on import, as ``import ors_gym`` does. Gymnasium also imports the
package itself for ``gym.make("ors_gym:ors_gym/ORS-v0", …)``.
"""

from __future__ import annotations

import re
from typing import Any, Unpack

import gymnasium

from ors_gym.client.arguments import check_type, types_in_words
from ors_gym.envs.async_env import EnvOptions
from ors_gym.envs.copying import without_secrets
from ors_gym.envs.env import client_of

__all__ = ["register_envs"]


@types_in_words
def register_envs(url: str, *, namespace: str = "ors", **options: Unpack[EnvOptions]) -> tuple[str, ...]:
    """Register every environment of a server under its own id, and return the ids.

    ``wordle`` becomes ``ors/wordle-v0``; characters that Gymnasium forbids become ``-``. The options are stored for
    ``gym.make``, which may override them. Registering a name again replaces it.

    >>> register_envs("http://localhost:8080")  # doctest: +SKIP
    ('ors/wordle-v0', 'ors/sudoku-v0')
    """
    check_type("namespace", namespace, str, none=False)
    portal, client = client_of(url, options)
    names = portal.run(client.list_environments())
    by_id = {f"{namespace}/{re.sub('[^a-zA-Z0-9_.-]+', '-', name)}-v0": name for name in names}
    for env_id, name in by_id.items():
        gymnasium.registry.pop(env_id, None)
        _register(env_id, {"url": url, "env_name": name, **options})
    return tuple(by_id)


def _register(env_id: str, kwargs: dict[str, Any]) -> None:
    gymnasium.register(  # pyright: ignore[reportUnknownMemberType]  # Gymnasium's kwargs: dict
        env_id,
        entry_point="ors_gym.envs.making:make_env",
        vector_entry_point="ors_gym.envs.making:make_vector_env",
        kwargs=without_secrets(kwargs),
    )
