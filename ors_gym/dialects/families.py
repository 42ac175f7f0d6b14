"""All dialects, by name."""

from __future__ import annotations

from ors_gym.dialects.base import Dialect
from ors_gym.dialects.command import Command
from ors_gym.dialects.deepseek import DeepSeek, DeepSeek31
from ors_gym.dialects.gemma import Gemma
from ors_gym.dialects.glm import GLM, Hunyuan3
from ors_gym.dialects.harmony import Harmony
from ors_gym.dialects.hermes import Hermes, SmolLM
from ors_gym.dialects.hunyuan import Hunyuan, MiniMax1
from ors_gym.dialects.invoke import DSML, DSML32, MiniMax
from ors_gym.dialects.kimi import Kimi
from ors_gym.dialects.lfm import LFM, RawLFM
from ors_gym.dialects.llama import Llama
from ors_gym.dialects.mistral import Mistral
from ors_gym.dialects.muse import Muse
from ors_gym.dialects.openai import OpenAI, Plain
from ors_gym.dialects.xml import XML

__all__ = ["DIALECTS", "dialect"]

_FAMILIES: tuple[type[Dialect], ...] = (
    *(SmolLM, Hermes, XML, GLM, Llama, Gemma, Harmony, DeepSeek31, DeepSeek, LFM, RawLFM, Muse, Mistral),
    *(Kimi, MiniMax, DSML, DSML32, MiniMax1, Hunyuan, Hunyuan3, Command),
    *(OpenAI, Plain),
)
DIALECTS: dict[str, Dialect] = {family.name: family() for family in _FAMILIES}
"""The built-in dialects by name."""


def dialect(name: str | Dialect) -> Dialect:
    """The dialect of that name, or the given dialect.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if isinstance(name, Dialect):
        return name
    if name not in DIALECTS:
        raise ValueError(f"unknown dialect {name!r}; choose one of {', '.join(sorted(DIALECTS))}")
    return DIALECTS[name]
