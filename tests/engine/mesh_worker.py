"""What each of several processes does in test_engine_mesh.py: every check in turn, the outcomes into a JSON file.

Run as a script: `mesh_worker.py RANK WORLD FOLDER SUBJECTS`, "kinds" or "subjects". A check ends this process when it
fails, as the others would wait.
"""

import copy
import json
import re
import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from registry import KINDS, SUBJECTS
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import dashpot as dp
from dashpot.engine import dtensor

SAME = 1e-12  # float64 over ten steps; only sums over elements are taken in another order
SHAPES = ((5, 3), (1, 4), (7,), (2, 2), (3,), ())
"""Over two processes: uneven, empty on the second, uneven, repeated, a plain tensor, repeated without dimension."""
WORKER: dict = {}


def rank():
    return dist.get_rank()


def line():
    return WORKER.setdefault("mesh", init_device_mesh("cpu", (dist.get_world_size(),)))


def placements(index, ndim=1):
    """Of the tensor SHAPES[index]; None where it stays plain."""
    kinds = {0: Shard(0), 1: Shard(0), 2: Shard(0), 3: Replicate(), 4: None, 5: Replicate()}
    return None if kinds[index] is None else [*[Replicate()] * (ndim - 1), kinds[index]]


def draw(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def divided(tensors, where=None):
    where = line() if where is None else where
    kinds = [placements(i, where.ndim) for i in range(len(tensors))]
    return [
        t.clone() if kind is None else distribute_tensor(t, where, kind, src_data_rank=None)
        for t, kind in zip(tensors, kinds, strict=True)
    ]


def parameters(values):
    return [nn.Parameter(v) for v in values]


def whole(x):
    return x.detach().full_tensor() if isinstance(x, DTensor) else x.detach()


def train(optimizer, params, steps, spread=lambda x: x, first=0):
    for step in range(first, first + steps):
        for p, g in zip(params, spread(draw(100 + step)), strict=True):
            p.grad = g
        optimizer.step()


def assert_same(mine, expected, tolerance=SAME):
    torch.testing.assert_close([whole(x) for x in mine], [whole(x) for x in expected], rtol=tolerance, atol=tolerance)


def assert_equal_everywhere(x):
    found = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(found, x.contiguous())
    assert all(torch.equal(other, x) for other in found), found


def pair(make, steps=10, where=None, **options):
    """(optimizer, parameters) in pieces, and the same in one process, after equal steps."""
    pieces, plain = parameters(divided(draw(0), where)), parameters(draw(0))
    mine, alone = make(pieces, **options), make(plain, **{**options, "engine": "eager"})
    train(mine, pieces, steps, lambda x: divided(x, where))
    train(alone, plain, steps)
    return mine, pieces, alone, plain


def same_as_alone(make, where=None, **options):
    mine, pieces, alone, plain = pair(make, where=where, **options)
    assert_same(pieces, plain)
    for p, q in zip(pieces, plain, strict=True):
        assert mine.state[p].keys() == alone.state[q].keys()
        for key, value in mine.state[p].items():
            assert_same([value], [alone.state[q][key]])
            if isinstance(p, DTensor) and key != "step" and value.shape == p.shape and p.dim():
                assert isinstance(value, DTensor), key
                assert value.placements == p.placements
            elif not isinstance(value, DTensor):
                assert_equal_everywhere(value)
    return mine, pieces, alone


def refused(kind, text, act):
    with pytest.raises(kind, match=re.escape(text)):
        act()


def nan_in_one_process(x, process=1):
    """A nan in an element that only one process holds."""
    x = copy.deepcopy(x)
    piece = dtensor.local(x)
    if rank() == process:
        piece[0] = float("nan")
    return x


# ---- checks ---------------------------------------------------------------------------------------------------------


def every_method(name):
    subject = next(s for s in SUBJECTS if s.name == name)
    same_as_alone(subject.make, engine="eager")


def compiled(name):
    subject = next(s for s in SUBJECTS if s.name == name)
    optimizer, *_ = same_as_alone(subject.make, engine="compiled", max_norm=1.0)
    text = repr(dp.explain_engine(optimizer))
    reducing = name.startswith("autosgm")
    assert "compiled, " in text, text
    assert ("sums over several processes" in text) == reducing, text


def copies_and_pieces(copies):
    """A mesh for as many copies, each in pieces: HSDP."""
    return init_device_mesh("cpu", (copies, dist.get_world_size() // copies), mesh_dim_names=("copies", "pieces"))


def two_dimensions(copies):
    where = copies_and_pieces(copies)
    for name in ("adamw-decay", "autosgm-1-debiased", "autosgm-4-zero"):
        subject = next(s for s in SUBJECTS if s.name == name)
        same_as_alone(subject.make, where, engine="eager", max_norm=0.5)


def divided_over_both_dimensions():
    world = dist.get_world_size()
    where = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("a", "b"))
    start, steps = draw(0)[0], [draw(k)[0] for k in range(10)]
    piece, plain = nn.Parameter(distribute_tensor(start, where, [Shard(0), Shard(1)])), nn.Parameter(start.clone())
    mine, alone = (dp.AutoSGM([p], numerator=4, max_norm=1.0, engine="eager") for p in (piece, plain))
    for g in steps:
        piece.grad, plain.grad = distribute_tensor(g, where, [Shard(0), Shard(1)]), g
        mine.step()
        alone.step()
    assert_same([piece], [plain])
    assert_same([mine.last_grad_norm], [alone.last_grad_norm])


def norm_is_that_of_one_process(engine):
    def make(params, **options):
        return dp.AdamW(params, lr=0.02, weight_decay=0.1, **options)

    mine, _, alone = same_as_alone(make, engine=engine, max_norm=0.7, clip_value=0.2)
    assert_same([mine.last_grad_norm], [alone.last_grad_norm])
    assert_equal_everywhere(mine.last_grad_norm)
    assert mine.last_step == "clipped"


def nonfinite_is_agreed(engine, index, mode, copies=1):
    """A nan that only the second process sees."""
    where = copies_and_pieces(copies)
    pieces = parameters(divided(draw(0), where))
    optimizer = dp.AdamW(pieces, engine=engine, nonfinite=mode, max_norm=None if mode == "raise" else 1.0)
    train(optimizer, pieces, 1, lambda x: divided(x, where))
    before, steps = [whole(p).clone() for p in pieces], [optimizer.state[p]["step"].clone() for p in pieces]
    for i, (p, g) in enumerate(zip(pieces, divided(draw(7), where), strict=True)):
        p.grad = nan_in_one_process(g) if i == index else g
    if mode == "raise":
        text = "parameter " if rank() == 1 else "in another process"
        refused(dp.NonFiniteError, text, optimizer.step)
    else:
        optimizer.step()
        assert optimizer.last_step == "skipped"
    assert_same(pieces, before, 0.0)
    assert [optimizer.state[p]["step"] for p in pieces] == steps
    train(optimizer, pieces, 1, lambda x: divided(x, where))
    assert optimizer.last_step != "skipped"


def grad_scaler_is_agreed():
    pieces, plain = parameters(divided(draw(0))[:4]), parameters(draw(0)[:4])
    for params, give in ((pieces, divided), (plain, lambda x: x)):
        optimizer = dp.AdamW(params, lr=0.1, engine="eager")
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for step in range(3):
            grads = draw(step)
            grads[0][-1] *= float("inf") if step == 1 else 1.0  # the last row is the second process's
            scaler.scale(torch.zeros(()))
            for p, g in zip(params, give([8.0 * g for g in grads]), strict=False):
                p.grad = g
            scaler.step(optimizer)
            scaler.update(8.0)
        assert optimizer.steps_done() == 2
    assert_same(pieces, plain)


def gradients_divided_otherwise():
    where, value = line(), draw(0)[0]
    p = nn.Parameter(distribute_tensor(value, where, [Shard(0)]))
    optimizer = dp.AdamW([p], lr=0.1)
    for wrong in (
        distribute_tensor(value, where, [Shard(1)]),
        distribute_tensor(value, where, [Replicate()]),
        distribute_tensor(value, init_device_mesh("cpu", (1, dist.get_world_size())), [Replicate(), Shard(0)]),
    ):
        p.grad = None
        p.grad = wrong
        refused(dp.ArgumentError, "a gradient must be divided as its parameter of shape (5, 3)", optimizer.step)
    plain = nn.Parameter(value.clone())
    optimizer = dp.AdamW([plain], lr=0.1)
    plain.grad = value
    optimizer.step()
    before = plain.detach().clone()
    plain.grad = None
    plain.grad = distribute_tensor(value, where, [Replicate()])
    refused(dp.ArgumentError, "a plain tensor, got (Replicate(),)", optimizer.step)
    p.grad = None
    p.grad = value
    refused(dp.ArgumentError, "got a plain tensor", dp.AdamW([p], lr=0.1).step)
    assert_same([p, plain], [value, before], 0.0)


def sums_that_are_due():
    """A `Partial` gradient is summed, for a repeated and for a divided parameter."""
    where, (value, *_), (g, *_) = line(), draw(0), draw(1)
    world = dist.get_world_size()
    for kind in (Replicate(), Shard(0)):
        p, alone = nn.Parameter(distribute_tensor(value, where, [kind])), nn.Parameter(value.clone())
        mine, other = dp.AdamW([p], lr=0.1, max_norm=1.0), dp.AdamW([alone], lr=0.1, max_norm=1.0)
        for _ in range(3):
            p.grad = DTensor.from_local(g / world, where, [Partial()])
            alone.grad = g.clone()
            mine.step()
            other.step()
        assert_same([p], [alone])


def what_is_refused():
    where, value = line(), draw(0)[0]
    p = nn.Parameter(distribute_tensor(value, where, [Shard(0)]))
    p.grad = distribute_tensor(value, where, [Shard(0)])
    optimizer = dp.AdamW([p], capturable=True)
    refused(dp.ArgumentError, "capturable=True takes plain tensors", optimizer.step)
    optimizer = dp.AdamW([p], differentiable=True)
    refused(dp.ArgumentError, "differentiable=True takes plain tensors", optimizer.step)
    q = nn.Parameter(DTensor.from_local(value, where, [Partial()]))
    q.grad = DTensor.from_local(value, where, [Partial()])
    refused(dp.ArgumentError, "parameters must be sharded or replicated", dp.SGD([q]).step)
    optimizer = dp.AdamW([p])
    optimizer.step()
    before = whole(p).clone()
    optimizer.state[p]["exp_avg"] = whole(optimizer.state[p]["exp_avg"])
    refused(dp.ArgumentError, "state 'exp_avg' must be divided as its parameter", optimizer.step)
    assert_same([p], [before], 0.0)


def state_that_is_replaced():
    """New state, and a new piece under the same parameter, are looked at anew."""
    mine, pieces, alone, plain = pair(dp.AdamW, steps=3, engine="eager")
    state, other = mine.state[pieces[0]], alone.state[plain[0]]
    state["exp_avg"], other["exp_avg"] = state["exp_avg"] * 2, other["exp_avg"] * 2
    pieces[0]._local_tensor = pieces[0]._local_tensor.clone() + 1
    plain[0].data += 1
    train(mine, pieces, 3, divided, 3)
    train(alone, plain, 3, first=3)
    assert_same(pieces, plain)


def autograd_sees_the_change():
    p = parameters(divided(draw(0)))[0]
    p.grad = divided(draw(1))[0]
    kept = (p * p).sum()
    dp.SGD([p], lr=0.1).step()
    refused(RuntimeError, "modified by an inplace operation", kept.backward)


def rounding_differs_between_pieces():
    where, world = line(), dist.get_world_size()
    for kind, size in ((Shard(0), 4096 * world), (Replicate(), 4096)):
        p = nn.Parameter(distribute_tensor(torch.ones(size, dtype=torch.bfloat16), where, [kind]))
        optimizer = dp.SGD([p], lr=1e-3, rounding="stochastic")
        p.grad = distribute_tensor(torch.ones(size, dtype=torch.bfloat16), where, [kind])
        optimizer.step()
        pieces = [torch.empty(4096) for _ in range(world)]
        dist.all_gather(pieces, dtensor.local(p).detach().float())
        if isinstance(kind, Replicate):
            assert all(torch.equal(piece, pieces[0]) for piece in pieces)
        else:
            assert not any(torch.equal(piece, pieces[0]) for piece in pieces[1:])
        # One number in four moves by 2^-8: the mean of n has the standard deviation 2^-8 sqrt(3/16/n).
        mean = torch.stack(pieces).double().mean()
        assert abs(mean - 0.999) < 5 * 2**-8 * (3 / 16 / 4096) ** 0.5 + 1e-6, mean


def copies_round_alike():
    where, value = copies_and_pieces(2), torch.ones(4096, dtype=torch.bfloat16)
    p = nn.Parameter(distribute_tensor(value, where, [Replicate(), Shard(0)]))
    optimizer = dp.SGD([p], lr=1e-3, rounding="stochastic")
    p.grad = distribute_tensor(value, where, [Replicate(), Shard(0)])
    optimizer.step()
    piece = dtensor.local(p).detach().float()
    assert len(piece.unique()) == 2
    copies = [torch.empty_like(piece) for _ in range(2)]
    dist.all_gather(copies, piece, group=where.get_group("copies"))
    assert torch.equal(*copies)


def low_precision_state():
    """Twenty steps of 1e-3, each below half of what bfloat16 resolves at 1."""
    for options in ({"rounding": "kahan"}, {"rounding": "stochastic", "state_dtype": torch.bfloat16}):
        value = torch.ones(65, 8, dtype=torch.bfloat16)
        p = nn.Parameter(distribute_tensor(value, line(), [Shard(0)]))
        optimizer = dp.AdamW([p], lr=1e-3, weight_decay=0.0, engine="eager", **options)
        for _ in range(20):
            p.grad = distribute_tensor(value, line(), [Shard(0)])
            optimizer.step()
        assert all(isinstance(v, DTensor) for k, v in optimizer.state[p].items() if k != "step")
        mean = float(whole(p).double().mean())  # stochastic: standard deviation 2^-8 sqrt(20 * 3/16/520) < 0.09 2^-8
        assert abs(mean - 0.98) < (2**-9 if options["rounding"] == "kahan" else 0.5 * 2**-8), mean


def complex_numbers():
    value = torch.complex(draw(0)[0], draw(1)[0])
    p, alone = nn.Parameter(distribute_tensor(value, line(), [Shard(0)])), nn.Parameter(value.clone())
    mine, other = (dp.AutoSGM([x], numerator=1, max_norm=1.0, engine="eager") for x in (p, alone))
    for k in range(5):
        g = torch.complex(draw(2 * k)[0], draw(2 * k + 1)[0])
        p.grad, alone.grad = distribute_tensor(g, line(), [Shard(0)]), g
        mine.step()
        other.step()
    assert_same([p], [alone])


def one_rule_for_all_processes():
    """Kernels from the first step on, whatever the size of the pieces."""
    p = nn.Parameter(divided(draw(0))[0])
    optimizer = dp.AdamW([p], engine="auto")
    p.grad = divided(draw(1))[0]
    optimizer.step()
    fate = "compiled, " if dtensor.local(p).numel() else "no element of it is here"
    assert fate in repr(dp.explain_engine(optimizer)), dp.explain_engine(optimizer)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 7), nn.LayerNorm(7), nn.Linear(7, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


def net(sharded):
    torch.manual_seed(0)
    model = Net().double()
    if sharded:
        for module in (model.first, model.norm, model):
            fully_shard(module, mesh=line())
    return model


def learn(model, optimizer, steps, *, sharded, first=0):
    world = dist.get_world_size()
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4 * world, 3, generator=generator, dtype=torch.float64)
        mine = x[4 * rank() : 4 * rank() + 4] if sharded else x
        loss = (model(mine) - mine.prod(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


METHODS = {
    "AdamW": lambda params: dp.AdamW(params, lr=0.02, weight_decay=0.1, max_norm=0.3, engine="eager"),
    "AutoSGM": lambda params: dp.AutoSGM(params, lr=0.01, numerator=1, decay="change", weight_decay=0.1),
    "NAdam": lambda params: dp.NAdam(params, lr=0.01, nonfinite="skip", schedule=dp.schedules.Cosine(20)),
}


def a_fully_sharded_model(name):
    ours, alone = net(True), net(False)
    mine, other = METHODS[name](ours.parameters()), METHODS[name](alone.parameters())
    learn(ours, mine, 1, sharded=True)
    tables = mine._stepper.tensor_table.kernel_args
    learn(ours, mine, 9, sharded=True, first=1)
    assert mine._stepper.tensor_table.kernel_args is tables, "the tensors were looked over again"
    learn(alone, other, 10, sharded=False)
    assert any(isinstance(p, DTensor) and dtensor.local(p).shape[0] != whole(p).shape[0] for p in ours.parameters())
    assert_same(ours.parameters(), alone.parameters())


def a_checkpoint(name, full):
    """State saved after 5 of 10 steps and loaded into new objects: the run goes on as if nothing had happened."""
    through, first = net(True), net(True)
    straight, saving = METHODS[name](through.parameters()), METHODS[name](first.parameters())
    learn(through, straight, 10, sharded=True)
    learn(first, saving, 5, sharded=True)
    options = StateDictOptions(full_state_dict=full)
    saved = get_optimizer_state_dict(first, saving, options=options)
    if full:
        box = [saved]
        dist.broadcast_object_list(box, src=0)  # only the first process gets it whole
        saved = box[0]
    second = net(True)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    going_on = METHODS[name](second.parameters())
    set_optimizer_state_dict(second, going_on, saved, options=options)
    assert going_on.steps_done() == 5
    learn(second, going_on, 5, sharded=True, first=5)
    assert_same(second.parameters(), through.parameters(), 0.0)


def a_state_dict():
    """torch's own `state_dict` holds DTensors and loads where parameters are divided alike."""
    pieces = parameters(divided(draw(0)))
    saving = dp.AdamW(pieces, lr=0.1)
    train(saving, pieces, 3, divided)
    others = parameters(p.detach().clone() for p in pieces)
    loaded = dp.AdamW(others, lr=0.1)
    loaded.load_state_dict(copy.deepcopy(saving.state_dict()))
    train(saving, pieces, 3, divided, 3)
    train(loaded, others, 3, divided, 3)
    assert_same(others, pieces, 0.0)
    whole = copy.deepcopy(saving.state_dict())
    whole["state"][0]["exp_avg"] = torch.zeros(others[0].shape)
    before = loaded.state[others[0]]
    refused(dp.ArgumentError, "must be divided as its parameter", lambda: loaded.load_state_dict(whole))
    assert loaded.state[others[0]] is before


def the_step_that_makes_the_state():
    """Zero gradients and rates make the state and nothing else; a gradient in one process makes it a step in all."""
    for make in (dp.AdamW, dp.ESGD, dp.AutoSGM):
        pieces = parameters(divided(draw(0)))
        before = [whole(p).clone() for p in pieces]
        optimizer = make(pieces, lr=0.0)
        for p in pieces:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert_same(pieces, before, 0.0)
        assert optimizer.steps_done() == 0
        assert all(
            dtensor.is_dtensor(p) == dtensor.is_dtensor(x)
            for p in pieces
            for x in optimizer.state[p].values()
            if x.dim()
        )
    pieces = parameters(divided(draw(0)))
    optimizer = dp.AdamW(pieces, lr=0.0)
    for p in pieces:
        p.grad = torch.zeros_like(p)
    if rank() == 1:
        dtensor.local(pieces[0].grad)[0].fill_(1.0)
    optimizer.step()
    assert optimizer.steps_done() == 1


CHECKS = {f"every_method[{s.name}]": (every_method, s.name) for s in SUBJECTS}
CHECKS |= {f"compiled[{name}]": (compiled, name) for name in ("adamw-decay", "nadam", "autosgm-1-debiased")}
CHECKS |= {f"norm[{engine}]": (norm_is_that_of_one_process, engine) for engine in ("eager", "compiled")}
CHECKS |= {
    f"nonfinite[{engine}-{index}-{mode}]": (nonfinite_is_agreed, engine, index, mode)
    for engine in ("eager", "compiled")
    for index in (0, 3, 4)
    for mode in ("skip", "raise")
}
CHECKS |= {
    f"nonfinite_copies[{index}-{mode}]": (nonfinite_is_agreed, "eager", index, mode, 2)
    for index in (0, 3)
    for mode in ("skip", "raise")
}
CHECKS |= {f"fully_shard[{name}]": (a_fully_sharded_model, name) for name in METHODS}
CHECKS |= {f"checkpoint[{name}-{full}]": (a_checkpoint, name, full) for name in METHODS for full in (False, True)}
CHECKS |= {f"two_dimensions[{copies}]": (two_dimensions, copies) for copies in (1, 2)}
CHECKS |= {
    check.__name__: (check,)
    for check in (
        divided_over_both_dimensions,
        grad_scaler_is_agreed,
        gradients_divided_otherwise,
        sums_that_are_due,
        what_is_refused,
        state_that_is_replaced,
        autograd_sees_the_change,
        rounding_differs_between_pieces,
        copies_round_alike,
        low_precision_state,
        complex_numbers,
        one_rule_for_all_processes,
        a_state_dict,
        the_step_that_makes_the_state,
    )
}


def main(rank, world, folder, which):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    warnings.simplefilter("error")
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    outcomes = {}
    for name, (check, *arguments) in CHECKS.items():
        if which == "kinds" and check is every_method and not KINDS.issuperset(arguments):
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
