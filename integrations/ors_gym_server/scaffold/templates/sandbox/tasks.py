"""The tasks: questions about the data, with answers computed from it."""

from __future__ import annotations

import csv
import functools
from decimal import Decimal
from pathlib import Path

from ors_gym.types import Task
from ors_gym_server.sandbox import data_path

YEAR = 2025
MONTHS = {"train": range(1, 9), "validation": range(9, 11), "test": range(11, 13)}
STORES = ("Ghent", "Leeds", "Porto", "Turin")


def sales_file() -> Path:
    """The data file: in /orwd_data, or in ORWD_DATA; else next to this file."""
    try:
        return data_path("sales.csv")
    except FileNotFoundError:
        return Path(__file__).parent / "data" / "sales.csv"


@functools.cache
def tasks(split: str) -> list[Task]:
    """The tasks of a split: one for each store and month."""
    revenues = _revenues()
    return [
        {"id": f"{split}-{store}-{month}", "store": store, "month": month, "answer": str(revenues[store, month])}
        for month in (f"{YEAR}-{number:02}" for number in MONTHS[split])
        for store in STORES
    ]


def _revenues() -> dict[tuple[str, str], Decimal]:
    revenues: dict[tuple[str, str], Decimal] = {}
    orders: set[str] = set()
    with sales_file().open(newline="") as file:
        for row in csv.DictReader(file):
            if row["order"] not in orders:  # some were exported twice
                orders.add(row["order"])
                key = row["store"], row["date"][:7]
                revenues[key] = revenues.get(key, Decimal(0)) + Decimal(row["unit_price"]) * int(row["quantity"])
    return revenues
