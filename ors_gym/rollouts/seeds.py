"""Seeds that belong to an episode and a turn, independent of the order of episodes."""

from __future__ import annotations

from hashlib import blake2b
from typing import overload

__all__ = ["derive_seed"]


@overload
def derive_seed(seed: int, *places: int | str) -> int: ...
@overload
def derive_seed(seed: int | None, *places: int | str) -> int | None: ...
def derive_seed(seed: int | None, *places: int | str) -> int | None:
    """The seed of a place under ``seed``: a number of 63 bits, or None without a seed."""
    if seed is None:
        return None
    return int.from_bytes(blake2b(repr((seed, *places)).encode(), digest_size=8).digest(), "big") >> 1
