"""Built-in tasks that need no data folder and no download."""

from __future__ import annotations

import inspect

from dashpot.names import TASKS, load

LOCAL_TASKS = [name for name, path in TASKS.items() if "data_dir" not in inspect.signature(load(path)).parameters]
