"""Running means of one phase of an epoch, the same as `dashpot.tasks.evaluate` takes."""

from dashpot.tasks.means import FLUSH, Means

__all__ = ["FLUSH", "Means"]
