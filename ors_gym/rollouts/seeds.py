"""Random numbers that belong to an episode and a turn, in whatever order episodes go on."""

from __future__ import annotations

from hashlib import blake2b
from typing import overload

__all__ = ["derive_seed"]


@overload
def derive_seed(seed: int, *places: int | str) -> int: ...
@overload
def derive_seed(seed: int | None, *places: int | str) -> int | None: ...
def derive_seed(seed: int | None, *places: int | str) -> int | None:
    """The seed of what has this place under ``seed``: a number of 63 bits, and None without a seed."""
    if seed is None:
        return None
    return int.from_bytes(blake2b(repr((seed, *places)).encode(), digest_size=8).digest(), "big") >> 1
