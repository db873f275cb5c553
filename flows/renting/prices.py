"""What a machine may be billed at: what it was offered for, within the job's limit."""

from __future__ import annotations

from blocks.models import Instance
from flows.renting.hire import Hire
from trainer.config import Limits
from trainer.contract.errors import CapacityError, MachineLost

DEARER = 1.05  # a machine may cost this many times its offer: disk is billed separately
CENT = 0.01  # more, for rounding: 5 % of a very cheap machine is less than that


def refuse_dearer(hire: Hire, instance: Instance, limits: Limits) -> None:
    """Refuse a machine that is billed at more than it was offered for, or than the job allows.

    Raises:
        CapacityError: it is.
    """
    # A provider may answer an order with the offer's own price: what it bills stands in its list.
    billed, offered = instance.price_per_hour, hire.offered_per_hour
    if offered and billed is not None and billed > offered * DEARER + CENT:
        raise CapacityError(
            f"{instance.id} costs {billed:g} USD/h and was offered for {offered:g}."
        )
    if words := _above_limit(instance, limits):
        raise CapacityError(words)


def give_up_dearer(instance: Instance, limits: Limits) -> None:
    """Give up a machine in use that has become dearer than the job allows.

    Raises:
        MachineLost: it has.
    """
    if words := _above_limit(instance, limits):
        raise MachineLost(words)


def _above_limit(instance: Instance, limits: Limits) -> str:
    cap, billed = limits.max_price_per_hour, instance.price_per_hour
    if cap is None or billed is None or billed <= cap:
        return ""
    return (
        f"{instance.id} is billed at {billed:g} USD/h, more than "
        f"limits.max_price_per_hour = {cap:g}."
    )
