"""Environment variable of processes that `dashpot train --devices` launches."""

SUPERVISOR = "DASHPOT_SUPERVISOR"
"""Environment variable with the process id of the launcher; a process exits once its launcher has died."""
