"""Work queue in an Optuna storage, shared by any number of worker processes and machines."""
