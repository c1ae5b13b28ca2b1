"""Saving and loading optimizer state: plain data out; checked, converted and matched by name in."""

from dashpot.state_dicts.groups import check_form, plain_group, refuse_foreign
from dashpot.state_dicts.loading import Accepted, faithful_load
from dashpot.state_dicts.plain import plain_data
from dashpot.state_dicts.slots import Slots, slots_of

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
