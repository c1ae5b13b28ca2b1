"""Classes of torch.optim with the update of a method of dashpot, whose tuned rates they share."""

from __future__ import annotations

from dashpot.names import METHODS

COUNTERPARTS = {
    row.path.partition(":")[2]: name
    for name, row in METHODS.items()
    if row.path.startswith("dashpot.optimizers.torch_compatible:")
}
"""For each class of torch.optim with the update of a method of dashpot, the name of the method."""
