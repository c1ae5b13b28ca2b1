"""Sensitivity of the plain PyTorch loop to every option of the comparisons."""

from __future__ import annotations

from other_loops_support import METHODS, adamw, autosgm, plain

import dashpot as dp


def test_plain_loop_depends_on_every_option():
    """Accumulation, clipping, each of the schedules and the number of epochs change the weights."""
    without = {name: lambda params, make=make: (make(params)[0], None) for name, make in METHODS.items()}
    ends = [plain(adamw), plain(adamw, 2), plain(adamw, 2, 0.1), plain(autosgm, 2), plain(without["adamw"], 2)]
    ends += [plain(adamw, 2, epochs=1), plain(lambda params: (dp.AutoSGM(params, lr=0.05, numerator=1), None), 2)]
    for i, a in enumerate(ends):
        assert all((a - b).abs().max() > 1e-3 for b in ends[:i])
