"""Saving and loading of optimizer state. Saved state is plain data; loaded state is matched by name and checked."""

from dashpot.optimizers.state_dict.groups import check_form, check_known_settings, normalize_group
from dashpot.optimizers.state_dict.loading import AcceptedGroup, checked_load
from dashpot.optimizers.state_dict.plain import plain_data
from dashpot.optimizers.state_dict.slots import Slots, slots_of

__all__ = [
    "AcceptedGroup",
    "Slots",
    "check_form",
    "check_known_settings",
    "checked_load",
    "normalize_group",
    "plain_data",
    "slots_of",
]
