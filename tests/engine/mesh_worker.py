"""One rank of test_engine_mesh.py, which runs all checks and writes the outcomes to a JSON file.

Run as a script: `mesh_worker.py RANK WORLD FOLDER SUBJECTS`, with SUBJECTS "kinds" or "subjects". The process ends
after a failed check, because the other ranks would otherwise wait for it.
"""

import json
import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from mesh_model_checks import (
    METHODS,
    distributed_checkpoint,
    fully_sharded_model,
    state_initialization_step,
    torch_state_dict_round_trip,
)
from mesh_names import SLOW, SUBJECTS_OF_TWO_RANKS
from mesh_step_checks import (
    compiled,
    complex_parameters,
    differently_sharded_gradient_raises,
    engine_choice_is_equal_on_all_ranks,
    every_method,
    global_norm_matches_single_process,
    grad_scaler_skips_on_all_ranks,
    hybrid_sharding,
    low_precision_state,
    nonfinite_decision_is_shared,
    partial_gradients_are_reduced,
    replaced_state_and_shards_are_detected,
    replicas_round_equally,
    sharding_over_two_dimensions,
    shards_round_independently,
    step_increments_version_counters,
    unsupported_options_raise,
)
from processes import PEER_LIMIT
from registry import SUBJECTS

CHECKS = {f"every_method[{s.name}]": (every_method, s.name) for s in SUBJECTS}
CHECKS |= {f"compiled[{name}]": (compiled, name) for name in ("adamw-decay", "nadam", "autosgm-1-debiased")}
CHECKS |= {f"norm[{engine}]": (global_norm_matches_single_process, engine) for engine in ("eager", "compiled")}
CHECKS |= {
    f"nonfinite[{engine}-{index}-{mode}]": (nonfinite_decision_is_shared, engine, index, mode)
    for engine in ("eager", "compiled")
    for index in (0, 3, 4)
    for mode in ("skip", "raise")
}
CHECKS |= {
    f"nonfinite_replicas[{index}-{mode}]": (nonfinite_decision_is_shared, "eager", index, mode, 2)
    for index in (0, 3)
    for mode in ("skip", "raise")
}
CHECKS |= {f"fully_shard[{name}]": (fully_sharded_model, name) for name in METHODS}
CHECKS |= {
    f"checkpoint[{name}-{full}]": (distributed_checkpoint, name, full) for name in METHODS for full in (False, True)
}
CHECKS |= {
    f"hybrid_sharding[{replicas}-{name}]": (hybrid_sharding, replicas, name)
    for replicas in (1, 2)
    for name in ("adamw-decay", "autosgm-1-debiased", "autosgm-4-zero")
}
CHECKS |= {
    check.__name__: (check,)
    for check in (
        sharding_over_two_dimensions,
        grad_scaler_skips_on_all_ranks,
        differently_sharded_gradient_raises,
        partial_gradients_are_reduced,
        unsupported_options_raise,
        replaced_state_and_shards_are_detected,
        step_increments_version_counters,
        shards_round_independently,
        replicas_round_equally,
        low_precision_state,
        complex_parameters,
        engine_choice_is_equal_on_all_ranks,
        torch_state_dict_round_trip,
        state_initialization_step,
    )
}


def main(rank, world, folder, which):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    warnings.simplefilter("error")
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=PEER_LIMIT))
    outcomes = {}
    for name, (check, *arguments) in CHECKS.items():
        if which == "kinds" and (name in SLOW or (check is every_method and arguments[0] not in SUBJECTS_OF_TWO_RANKS)):
            continue
        try:
            check(*arguments)
        except BaseException:
            outcomes[name] = traceback.format_exc()
            break
        outcomes[name] = "passed"
    (folder / f"outcomes-{rank}.json").write_text(json.dumps(outcomes))
    if all(outcome == "passed" for outcome in outcomes.values()):
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
