"""Values as the receiver reads them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scadles.exchange.compression.values import GROUP, VALUE_CODES

FLOATS = hnp.arrays(
    np.float32, st.integers(1, 600), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def coded(name, values):
    """Return the values as written and as read, each in parts."""
    code = VALUE_CODES[name]
    section = np.full(code.nbytes(len(values)), 255, np.uint8)
    parts = [slice(start, min(start + GROUP, len(values))) for start in range(0, len(values), GROUP)]
    sent = np.empty_like(values)
    for part in parts:
        code.write(values[part], section, part, len(values), sent[part])
    return sent, np.concatenate([code.read(section, part, len(values)) for part in parts])


@pytest.mark.parametrize("name", VALUE_CODES)
@given(values=FLOATS)
def test_the_sender_knows_what_the_receiver_reads(name, values):
    sent, received = coded(name, values)
    assert np.array_equal(sent, received)
    assert np.isfinite(received).all()


@given(values=FLOATS)
def test_float32_is_exact(values):
    assert np.array_equal(coded("float32", values)[1], values)


@given(values=FLOATS)
def test_bfloat16_rounds_as_torch_does(values):
    wanted = torch.from_numpy(values).to(torch.bfloat16).float()
    largest = torch.finfo(torch.bfloat16).max
    assert np.array_equal(coded("bfloat16", values)[1], wanted.clamp(-largest, largest).numpy())


@given(values=FLOATS)
def test_float16_rounds_as_torch_does_and_saturates(values):
    wanted = torch.from_numpy(values).clamp(-65504, 65504).half().float()
    assert np.array_equal(coded("float16", values)[1], wanted.numpy())


@given(values=FLOATS)
def test_int8_is_off_by_half_a_step_of_its_group_at_most(values):
    _, received = coded("int8", values)
    for start in range(0, len(values), GROUP):
        group = slice(start, start + GROUP)
        exact = values[group].astype(np.float64)
        step = max(np.abs(exact).max() / 127, float(np.finfo(np.float32).tiny))
        off = np.abs(received[group] - exact).max()
        # below the smallest normal number a group is sent as zeros
        limit = 127 * step if step < 1.2e-38 else 0.5001 * step
        assert off <= limit


def test_int8_groups_do_not_share_a_scale():
    values = np.concatenate([np.full(GROUP, 1e-6, np.float32), np.full(GROUP, 1e6, np.float32)])
    assert coded("int8", values)[1] == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize(("name", "size"), [("float32", 4000), ("bfloat16", 2000), ("float16", 2000), ("int8", 1016)])
def test_bytes_of_a_thousand(name, size):
    assert VALUE_CODES[name].nbytes(1000) == size
