"""Saving and loading optimizer state: plain data out; checked, converted and matched by name in."""

from dashpot.optimizers.state_dict.groups import check_form, plain_group, refuse_foreign
from dashpot.optimizers.state_dict.loading import Accepted, faithful_load
from dashpot.optimizers.state_dict.plain import plain_data
from dashpot.optimizers.state_dict.slots import Slots, slots_of

__all__ = [
    "Accepted",
    "Slots",
    "check_form",
    "faithful_load",
    "plain_data",
    "plain_group",
    "refuse_foreign",
    "slots_of",
]
