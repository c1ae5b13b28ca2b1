"""Spacing of stored weights, against torch.nextafter."""

import pytest
import torch

from dashpot.watching.resolution import spacing, stalled_share


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_spacing_equals_the_distance_to_the_next_number(dtype):
    w = torch.tensor([1.0, 1.5, 2.0, -3.0, 1e-3, 1e20, 0.0], dtype=dtype)
    following = torch.nextafter(w.abs(), torch.tensor(float("inf"), dtype=dtype))
    exact = following.double() - w.abs().double()
    assert spacing(w.double(), dtype).tolist() == exact.tolist()


def test_update_of_less_than_half_an_ulp_is_lost():
    w = torch.full((4,), 1.3, dtype=torch.bfloat16)
    update = torch.tensor([0.0035, -0.0035, 0.0045, 0.0]).double()
    stored = (w.double() + update).to(torch.bfloat16)
    assert stalled_share(update, w.double(), torch.bfloat16) == 0.5
    assert (stored == w).tolist() == [True, True, False, True]
