"""The entry points of the environments in Gymnasium's registry."""

from __future__ import annotations

from typing import Any

from ors_gym.client.arguments import types_in_words
from ors_gym.envs.env import ORSEnv
from ors_gym.envs.native_env import NativeEnv
from ors_gym.envs.native_vector_env import NativeVectorEnv
from ors_gym.envs.vector_env import ORSVectorEnv

__all__ = ["make_env", "make_vector_env"]


class _Maker:
    """Constructs the class selected by ``spaces``."""

    def __init__(self, text: type[Any], native: type[Any]) -> None:
        self._text, self._native = text, native
        self.metadata = getattr(text, "metadata", {})  # gym.make reads it to decide on a render wrapper

    @types_in_words
    def __call__(self, *args: Any, spaces: str = "text", **kwargs: Any) -> Any:
        return self._native(*args, **kwargs) if spaces == "native" else self._text(*args, spaces=spaces, **kwargs)


make_env = _Maker(ORSEnv, NativeEnv)
"""``gym.make``'s entry point."""

make_vector_env = _Maker(ORSVectorEnv, NativeVectorEnv)
"""``gym.make_vec``'s entry point."""
