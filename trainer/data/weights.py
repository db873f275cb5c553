"""How much a row counts: the column `weight`, by which the loss of what is learned of it is multiplied."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from trainer.data.problems import RowProblem, kind_of_value, short

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    Rows = TypeVar("Rows", Dataset, DatasetDict)

WEIGHT = "weight"
LARGEST = 1_000_000
"""By more a loss would overflow, and so would its gradient."""


def weight_of(row: Mapping[str, Any], name: str, used: Collection[str]) -> float:
    """Return the weight of a row; 1 where it has none.

    Args:
        row: the row.
        name: how its data set calls the column.
        used: the columns that are its layout's.

    Raises:
        RowProblem: it is not a weight.
    """
    value = row.get(name)
    if value is None or name in used:
        return 1.0
    weight = _number(value)
    if weight is None or not 0 <= weight <= LARGEST:  # NaN is neither
        shown = short(value) if isinstance(value, str | float | int) else kind_of_value(value)
        raise RowProblem(
            name,
            f"is {shown}, and by it the loss of the row would be multiplied",
            f"give a number from 0 to {LARGEST:,}, or rename the column if something else is meant",
        )
    return weight


def refuse_weight(row: Mapping[str, Any], name: str, used: Collection[str]) -> None:
    """Refuse the weight of a row of which no tokens are learned by themselves.

    Raises:
        RowProblem: it has one.
    """
    weight = _number(row.get(name)) if name not in used else None
    if weight is not None and weight != 1:
        raise RowProblem(
            name,
            f"is {short(row[name])}, and only sft and cpt weigh rows",
            "remove the column, or rename it if something else is meant",
        )


def unweighted(rows: Rows) -> Rows:
    """Return tokenised rows without the column of weights."""
    names = rows.column_names
    found = names.values() if isinstance(names, dict) else [names]
    without: Rows = rows.remove_columns(WEIGHT) if all(WEIGHT in each for each in found) else rows
    return without


def _number(value: Any) -> float | None:
    """Return a number, which a table may hold as a text; None: it is none."""
    try:
        if isinstance(value, int | float) or (isinstance(value, str) and value.strip()):
            return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        pass
    return None
