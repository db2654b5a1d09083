"""Tolerances: what each dtype is held to, in one table."""

from dataclasses import astuple

import pytest
import torch

from pid_lens.model import tolerances_of

HALF = [torch.bfloat16, torch.float16, torch.float8_e4m3fn]
HELD_TO = {
    torch.float64: (0.5, 1e-3, 1e-4, 32),
    torch.float32: (1e-2, 1e-3, 1e-4, 32),
    **dict.fromkeys(HALF, (0.5, 0.05, 1e-2, 4)),
}
"""last_layer, cached_prompt, unseen_text, roundings."""


@pytest.mark.parametrize("dtype", HELD_TO, ids=str)
def test_every_dtype_is_held_to_what_it_was_measured_with(dtype):
    assert astuple(tolerances_of(dtype)) == HELD_TO[dtype]


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_held_to_less_than_float32(dtype):
    half, single = tolerances_of(dtype), tolerances_of(torch.float32)
    assert half.last_layer > single.last_layer
    assert half.cached_prompt > single.cached_prompt
    assert half.unseen_text > single.unseen_text
    eps = [torch.finfo(one).eps for one in (dtype, torch.float32)]
    assert half.roundings * eps[0] > single.roundings * eps[1]
