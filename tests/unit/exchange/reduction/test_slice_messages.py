import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.errors import RunError
from scadles.exchange.compression import WireError
from scadles.exchange.reduction.slice_messages import (
    ImplicitHeader,
    open_slice_message,
    pack_slice_message,
    slice_message_bytes,
)

VALUE_TYPES = ("float32", "bfloat16", "float16", "int8")


def a_header(span, value_type="float32", scalars=0, start=1000):
    return ImplicitHeader(
        step=7, sender=2, receiver=0, start=start, stop=start + span, value_type=value_type, scalars=scalars
    )


def some_entries(span, count, seed=0):
    rng = np.random.default_rng(seed)
    indices = np.sort(rng.choice(span, count, replace=False)).astype(np.int64)
    return indices, rng.standard_normal(count, dtype=np.float32)


def packed(header, indices, values, size, scalars=()):
    message = np.full(size, 255, np.uint8)
    return message, pack_slice_message(message, header, indices, values, len(indices), scalars)


@given(st.data())
def test_what_is_packed_is_opened(data):
    span = data.draw(st.integers(1, 3000))
    positions = data.draw(st.sets(st.integers(0, span - 1), max_size=300))
    indices = np.array(sorted(positions), np.int64)
    values = np.random.default_rng(len(indices)).standard_normal(len(indices), dtype=np.float32)
    value_type = data.draw(st.sampled_from(VALUE_TYPES))
    scalars = data.draw(st.lists(st.floats(width=32, allow_nan=False), max_size=3))
    size = slice_message_bytes(span, data.draw(st.integers(1, 300)), value_type, len(scalars))
    header = a_header(span, value_type, len(scalars))
    message, sent = packed(header, indices, values, size, scalars)
    opened = open_slice_message(message, header)
    assert opened.indices.tolist() == sent.indices.tolist()
    assert opened.values.tobytes() == sent.sent.tobytes()
    assert opened.scalars.tolist() == scalars
    assert opened.wanted == len(indices)
    assert set(opened.indices.tolist()) <= positions
    assert sent.values.tolist() == values[np.isin(indices, sent.indices)].tolist()


@pytest.mark.parametrize("value_type", VALUE_TYPES)
@pytest.mark.parametrize(("span", "count"), [(1, 1), (100, 100), (4096, 4096), (200_000, 200_000)])
def test_a_whole_slice_fits_its_size(value_type, span, count):
    header = a_header(span, value_type)
    indices, values = some_entries(span, count)
    message, sent = packed(header, indices, values, slice_message_bytes(span, count, value_type))
    assert len(sent.indices) == count
    assert np.abs(open_slice_message(message, header).values - values).max() <= np.abs(values).max() / 100


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("count", [40, 2000, 50_000])
def test_random_entries_fit_a_size_near_their_entropy(ratio, count):
    span = round(count / ratio)
    entropy = -(ratio * math.log2(ratio) + (1 - ratio) * math.log2(1 - ratio)) * span / 8
    size = slice_message_bytes(span, count, "float32")
    assert size - 4 * count <= 1.10 * entropy + 12  # of which a header
    for seed in range(5):
        _, sent = packed(a_header(span), *some_entries(span, count, seed), size)
        assert len(sent.indices) >= 0.98 * count


@pytest.mark.parametrize("value_type", ["float32", "int8"])
def test_the_largest_magnitudes_are_kept_where_not_all_fit(value_type):
    span, header = 5000, a_header(5000, value_type)
    indices, values = some_entries(span, 1000)
    size = slice_message_bytes(span, 100, value_type)
    message, sent = packed(header, indices, values, size)
    assert 95 <= len(sent.indices) <= 105
    left = np.setdiff1d(indices, sent.indices)
    assert np.abs(values[np.isin(indices, left)]).max() <= np.abs(sent.values).min()
    opened = open_slice_message(message, header)
    assert opened.wanted == 1000
    assert np.abs(opened.values - sent.values).max() <= 0.02


def test_entries_in_clusters_take_no_more_than_spread_ones():
    span, count = 100_000, 1000
    size = slice_message_bytes(span, count, "int8")
    _, values = some_entries(span, count)
    for indices in (np.arange(count), span - count + np.arange(count), np.arange(count) ** 2 // 11 + np.arange(count)):
        _, sent = packed(a_header(span, "int8"), indices.astype(np.int64), values, size)
        assert len(sent.indices) >= 0.97 * count


def test_nothing_is_a_message_too():
    for span in (0, 10):
        header = a_header(span)
        message, sent = packed(
            header, np.zeros(0, np.int64), np.zeros(0, np.float32), slice_message_bytes(10, 1, "float32")
        )
        opened = open_slice_message(message, header)
        assert len(sent.indices) == len(opened.indices) == len(opened.values) == opened.wanted == 0


def test_no_flipped_bit_and_no_missing_byte_passes():
    header = a_header(500, "int8", scalars=2)
    message, _ = packed(header, *some_entries(500, 30), slice_message_bytes(500, 30, "int8", 2), [1.0, 2.0])
    open_slice_message(message, header)
    for place in range(8 * len(message)):
        broken = message.copy()
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(WireError):
            open_slice_message(broken, header)
    for size in range(len(message)):
        with pytest.raises(WireError):
            open_slice_message(message[:size], header)


@pytest.mark.parametrize(
    "other",
    [
        {"step": 8},
        {"sender": 1},
        {"receiver": -1},
        {"start": 999},
        {"stop": 1501},
        {"value_type": "bfloat16"},
        {"scalars": 1},
    ],
)
def test_a_message_about_something_else_is_refused(other):
    header = a_header(500, "float16")
    message, _ = packed(header, *some_entries(500, 30), slice_message_bytes(500, 30, "float16"))
    with pytest.raises(WireError, match="does not match its checksum"):
        open_slice_message(message, header._replace(**other))


@given(st.binary(min_size=6, max_size=60), st.integers(0, 200), st.sampled_from(VALUE_TYPES))
def test_bytes_with_a_right_checksum_still_stand_for_entries_or_for_an_error(body, span, value_type):
    header = a_header(span, value_type, scalars=1)
    message = np.frombuffer(bytes(4) + bytes([32 + body[0] % 32]) + body[1:], np.uint8).copy()
    message[:4] = np.frombuffer(header.checksum(message).to_bytes(4, "little"), np.uint8)
    try:
        opened = open_slice_message(message, header)
    except WireError:
        return
    assert len(opened.indices) == len(opened.values)
    assert (np.diff(opened.indices, prepend=-1) > 0).all()
    assert (opened.indices < span).all()
    assert np.isfinite(opened.values).all()


def test_another_version_is_refused():
    header = a_header(10)
    message, _ = packed(header, *some_entries(10, 3), slice_message_bytes(10, 3, "float32"))
    message[4] += 32
    message[:4] = np.frombuffer(header.checksum(message).to_bytes(4, "little"), np.uint8)
    with pytest.raises(WireError, match="version 2, this is version 1"):
        open_slice_message(message, header)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(RunError, match="NaN or infinity"):
        packed(a_header(10), np.array([3]), np.array([bad], np.float32), 50)


@pytest.mark.parametrize("value_type", VALUE_TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_no_sender_writes_is_refused_though_the_checksum_is_right(value_type, bad):
    header = a_header(10, value_type)
    message, _ = packed(header, np.arange(3), np.ones(3, np.float32), slice_message_bytes(10, 3, value_type))
    number = {"float16": np.array(bad, "<f2"), "bfloat16": np.array(bad, "<f4").view("<u4") >> 16}
    code = number.get(value_type, np.array(bad, "<f4"))  # int8: the scale of the group
    written = code.astype("<u2").tobytes() if value_type == "bfloat16" else code.tobytes()
    message[7 : 7 + len(written)] = np.frombuffer(written, np.uint8)
    message[:4] = np.frombuffer(header.checksum(message).to_bytes(4, "little"), np.uint8)
    with pytest.raises(WireError, match="NaN or infinity, which no sender writes"):
        open_slice_message(message, header)
