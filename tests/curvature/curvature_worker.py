"""Worker of test_curvature_distributed.py: runs checks in order and writes the outcomes to a JSON file.

Run as a script: `curvature_worker.py RANK WORLD FOLDER PATTERN`, with a regular expression for the names of the checks.
The run continues after a check that failed on all ranks. After a check that failed on only some ranks, all ranks exit,
because their collectives may not match.
"""

from __future__ import annotations

import copy
import json
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from curvature_distributed_support import (
    LONG_RUN,
    METHODS,
    PRODUCTS,
    ROUTES,
    SMALL_NOISE,
    alone,
    assert_same,
    assert_unmoved,
    batch,
    loss_of,
    make,
    moved,
    net,
    probe_of,
    reference,
    refused,
    train,
)
from curvature_sharded_checks import (
    after_an_evaluation,
    averages_over_the_window,
    dropped_where_one_piece_is_not_finite,
    late_sums,
    pieces_of_the_probes,
    repeated_parameters,
    sharded_net,
    sharded_numbers_of_one_process,
    what_is_refused,
)
from processes import PEER_LIMIT
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import dashpot as dp
from dashpot.curvature import hessian

# ---- DistributedDataParallel -----------------------------------------------------------------------------------------


def ddp_net(**options: Any) -> DistributedDataParallel:
    return DistributedDataParallel(net(), **options)


def the_numbers_of_one_process(name: str, way: str, micro: int = 1, **options: Any) -> None:
    model = ddp_net(**options)
    settings: dict[str, Any] = SMALL_NOISE if way == "differences" else {}
    opt = make(name, model.parameters(), probe=probe_of(way), **settings)
    train(model, opt, way, whole=False, micro=micro)
    other, expected = reference(name, "step" if way in ("backward", "forward") else way, **settings)
    moved(model)
    assert opt.curvature_stats.products == PRODUCTS
    assert opt.curvature_stats.route == {"forward": way, "differences": way}.get(way, "closure")
    assert_same(model, opt, other, expected)


def gradients_stay(way: str, view: bool) -> None:
    """`p.grad` is unchanged by a product and keeps its memory, which DDP writes in every backward pass."""
    model, other = ddp_net(gradient_as_bucket_view=view), ddp_net(gradient_as_bucket_view=view)
    opt = make("ESGD-1", model.parameters(), probe="differences" if way == "differences" else "auto")
    for step in (3, 4, 0):  # DDP rebuilds its buckets once, after the first pass
        for its in (model, other):
            its.zero_grad()
            loss_of(its, batch(step, False)).backward()
    places: list[Any] = [p.grad for p in model.parameters()]
    opt.curvature_step(lambda: loss_of(model, batch(1, False)))
    for p, q, place in zip(model.parameters(), other.parameters(), places, strict=True):
        assert p.grad is place
        assert q.grad is not None
        assert torch.equal(place, q.grad)
    loss_of(model, batch(2, False)).backward()  # gradients continue to accumulate
    loss_of(other, batch(2, False)).backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-14, atol=1e-14)


def no_forward_mode(**options: Any) -> None:
    """With these options, DDP appends an operation without forward mode to the model."""
    model = ddp_net(**options)
    opt = make("ESGD-1", model.parameters(), probe="forward")
    text = "has no forward-mode derivative; use probe='differences'"
    refused(dp.CurvatureError, text, lambda: opt.step(lambda: loss_of(model, batch(0, False)).backward()))
    assert not opt.state
    assert_unmoved(model)


def falls_back_everywhere(view: bool) -> None:
    """Without double backward, "auto" falls back at the first product without counting gradients twice."""

    def attending(model: nn.Module, data: Any, micro: int, backward: Callable[[Tensor], None]) -> Tensor:
        del micro
        word = model(data[0])[:, :, None, None]
        out = nn.functional.scaled_dot_product_attention(word, word, word)  # compared only with itself
        loss = (out[:, 0, 0, 0] - data[1]).square().mean()
        backward(loss)
        return loss

    model, other = ddp_net(gradient_as_bucket_view=view), net()
    opt = make("ESGD-1", model.parameters(), **SMALL_NOISE)
    expected = make("ESGD-1", other.parameters(), process_group=alone(), probe="differences", **SMALL_NOISE)
    train(model, opt, "step", whole=False, loss_of_batch=attending)
    train(other, expected, "step", whole=True, loss_of_batch=attending)
    route, reason, *_ = opt.curvature_stats
    assert route == "differences"
    assert "has no double backward" in str(reason)
    assert_same(model, opt, other, expected)


def a_graph_of_one_process() -> None:
    """`loss.backward(create_graph=True)` raises an error: in torch if DDP communicates, otherwise in dashpot."""
    model = ddp_net()
    opt = make("ESGD-1", model.parameters())
    text = "use opt.backward(loss), or pass a closure to step."
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward", UserWarning)
        with model.no_sync():
            loss_of(model, batch(0, False)).backward(create_graph=True)
    refused(dp.CurvatureError, f"local to one rank; {text}", opt.step)
    opt.zero_grad()
    loss_of(model, batch(0, False)).backward()
    with pytest.raises(dp.CurvatureError, match=re.escape(text)) as found:
        opt.step()
    assert "create_graph" not in str(found.value)  # the message must not suggest an unsupported route
    assert not opt.state
    assert_unmoved(model)
    opt.zero_grad()
    train(model, opt, "backward", whole=False)
    assert_same(model, opt, *reference("ESGD-1"))


def not_finite_in_one_process(way: str) -> None:
    """Check a non-finite product on rank 1 in step 4, with finite gradients."""

    def spoiled(model: nn.Module, data: Any, micro: int, backward: Callable[[Tensor], None]) -> Tensor:
        del micro
        loss, ddp = loss_of(model, data), isinstance(model, DistributedDataParallel)
        its = any(torch.equal(data[0], batch(k, not ddp)[0]) for k in (4, 504))
        if its and (dist.get_rank() == 1 or not ddp):
            w: Any = model.get_parameter("module.last.bias" if ddp else "last.bias")
            loss = loss + ((w - w.detach()).abs() ** 1.5).sum()  # at 0, the slope is 0 and the curvature is infinite
        backward(loss)
        return loss

    model, other = ddp_net(), net()
    opt = make("ESGD-1", model.parameters())
    expected = make("ESGD-1", other.parameters(), process_group=alone())
    train(model, opt, way, whole=False, steps=LONG_RUN, loss_of_batch=spoiled)
    train(other, expected, way, whole=True, steps=LONG_RUN, loss_of_batch=spoiled)
    assert opt.curvature_stats[2:4] == (PRODUCTS, 1)
    assert_same(model, opt, other, expected)


def resumed(name: str, sharded: bool) -> None:
    """Check a run saved after 6 of 8 steps, two steps after the last product, and resumed in new objects."""
    fresh, way = (sharded_net, "step") if sharded else (ddp_net, "backward")
    through, first, second = fresh(), fresh(), fresh()
    straight, saving, going_on = (make(name, model.parameters()) for model in (through, first, second))
    train(through, straight, way, whole=False, steps=LONG_RUN)
    train(first, saving, way, whole=False, steps=6)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    going_on.load_state_dict(copy.deepcopy(saving.state_dict()))
    train(second, going_on, way, whole=False, first=6, steps=LONG_RUN - 6)
    assert_same(second, going_on, through, straight, 0.0)


def hessian_of_one_rank(route: str) -> None:
    """Check that the Hessian under DDP is that of the rank's own batch, and that the next step still synchronizes."""
    model, other = ddp_net(), net()
    loss_of(model, batch(0, False)).backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    vector = torch.ones(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for _ in range(1 + dist.get_rank()):  # numbers of products that differ, since there are no collectives
        with hessian(lambda: loss_of(model, batch(1, False)), list(model.parameters()), route=route) as operator:
            found = operator(vector)
    with hessian(lambda: loss_of(other, batch(1, False)), list(other.parameters())) as operator:
        # Differences are accurate to about 1e-7 in float64.
        torch.testing.assert_close(found, operator(vector), rtol=0, atol=1e-12 if route == "graph" else 1e-6)
    for p, grad in zip(model.parameters(), grads, strict=True):
        assert p.grad is not None
        assert torch.equal(p.grad, grad)
    model.zero_grad()
    loss_of(model, batch(0, False)).backward()
    for p, grad in zip(model.parameters(), grads, strict=True):
        assert p.grad is not None
        assert torch.equal(p.grad, grad)


# ---- table of checks -------------------------------------------------------------------------------------------------


FAST = ("ESGD-1-step-None", "AdaHessian-curvature_step-0.001")
"""Optimizers of the comparisons with FSDP2."""


def table() -> dict[str, tuple[Callable[..., None], dict[str, Any]]]:
    """Return a dict {name: (check, arguments)}; checks whose names start with "slow" are excluded from the fast set."""
    found: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {}
    for i, name in enumerate(METHODS):
        for j, way in enumerate(ROUTES):
            for k, (micro, view) in enumerate(((1, False), (2, True), (2, False), (1, True))):
                slow = "" if i == k == j % 4 else "slow "
                arguments = {"name": name, "way": way, "micro": micro, "gradient_as_bucket_view": view}
                found[f"{slow}ddp[{name}-{way}-{micro}-{view}]"] = the_numbers_of_one_process, arguments
        for way in ("step", "curvature_step"):
            for relative_step in (None, 1e-3):
                slow = "" if f"{name}-{way}-{relative_step}" in FAST else "slow "
                arguments = {"name": name, "way": way, "relative_step": relative_step}
                found[f"{slow}fsdp[{name}-{way}-{relative_step}]"] = sharded_numbers_of_one_process, arguments
        for sharded in (False, True):
            slow = "" if name == "ESGD-2" else "slow "
            found[f"{slow}resumed[{name}-{sharded}]"] = resumed, {"name": name, "sharded": sharded}
    for option in ("find_unused_parameters", "static_graph"):
        found[f"no_forward_mode[{option}]"] = no_forward_mode, {option: True}
        for way in ("backward", "step", "curvature_step", "differences"):
            arguments = {"name": "ESGD-1", "way": way, option: True}
            slow = "" if way == "backward" else "slow "
            found[f"{slow}ddp[{option}-{way}]"] = the_numbers_of_one_process, arguments
    for view in (False, True):
        slow = "" if view else "slow "
        found[f"{slow}falls_back_everywhere[{view}]"] = falls_back_everywhere, {"view": view}
        for way in ("closure", "differences"):
            found[f"gradients_stay[{way}-{view}]"] = gradients_stay, {"way": way, "view": view}
        found[f"{slow}repeated_parameters[{view}]"] = repeated_parameters, {"divide_batch": view}
    for way in ("backward", "step", "curvature_step"):
        found[f"not_finite_in_one_process[{way}]"] = not_finite_in_one_process, {"way": way}
    for route in ("graph", "differences"):
        found[f"hessian_of_one_rank[{route}]"] = hessian_of_one_rank, {"route": route}
    for way in ("step", "curvature_step"):
        for lazy in (False, True):
            slow = "" if lazy == (way == "step") else "slow "
            found[f"{slow}late_sums[{way}-{lazy}]"] = late_sums, {"way": way, "lazy": lazy}
    for check in (
        a_graph_of_one_process,
        after_an_evaluation,
        pieces_of_the_probes,
        what_is_refused,
        averages_over_the_window,
        dropped_where_one_piece_is_not_finite,
    ):
        found[check.__name__] = check, {}
    return found


CHECKS = table()


def alike(store: Any, name: str, passed: bool) -> bool:
    """Return True if the check had the same outcome on all ranks."""
    store.set(f"{name} {dist.get_rank()}", str(passed))
    return len({store.get(f"{name} {rank}") for rank in range(dist.get_world_size())}) == 1


def main(rank: int, world: int, folder: Path, pattern: str) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    warnings.simplefilter("error")
    store: Any = dist.FileStore(str(folder / "store"), world)  # pyright: ignore[reportPrivateImportUsage]
    store.set_timeout(timedelta(seconds=PEER_LIMIT))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=PEER_LIMIT))
    outcomes: dict[str, str] = {}
    for name, (check, arguments) in CHECKS.items():
        if not re.search(pattern, name):
            continue
        try:
            check(**arguments)
            outcomes[name] = "passed"
        except BaseException:
            outcomes[name] = traceback.format_exc()
        if not alike(store, name, outcomes[name] == "passed"):
            break
    (folder / f"outcomes-{rank}.json").write_text(json.dumps(outcomes))
    if all(outcome == "passed" for outcome in outcomes.values()):
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
