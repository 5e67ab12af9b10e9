"""Messages arrive whole or not at all."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.errors import ConfigError, FabricError, RunError
from scadles.exchange.compression import (
    Sparse,
    WireError,
    add_message,
    budget_bytes,
    decode,
    decode_dense,
    dense_bytes,
    encode,
    encode_dense,
)
from scadles.exchange.compression.header import header_bytes

TYPES = ["float32", "bfloat16", "float16", "int8"]
SCALARS = [64.0, 64.0, 0.25, float("nan"), 1e300]


def entries(n, count, seed=0):
    generator = np.random.default_rng(seed)
    indices = np.sort(generator.choice(n, count, replace=False))
    return Sparse(torch.from_numpy(indices), torch.from_numpy(generator.standard_normal(count).astype(np.float32)))


def tensor(data):
    return torch.from_numpy(np.frombuffer(bytes(data), np.uint8).copy())


MESSAGE = encode(entries(5000, 400), 5000, value_type="int8", step=7, scalars=SCALARS).message.numpy().tobytes()
DENSE = encode_dense(torch.arange(300.0), value_type="bfloat16", step=7, scalars=SCALARS).message.numpy().tobytes()


@pytest.mark.parametrize("value_type", TYPES)
@given(n=st.integers(1, 3000), share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_a_message_decodes_to_what_its_sender_was_told(value_type, n, share, seed):
    sparse = entries(n, int(share * n), seed)
    encoded = encode(sparse, n, value_type=value_type, step=2**40, scalars=SCALARS)
    header, decoded = decode(encoded.message, n)
    assert (header.step, header.kind, header.n, header.count) == (2**40, "sparse", n, sparse.entries)
    assert (header.value_type, header.index_code) == (value_type, "rice")
    assert np.array_equal(header.scalars, SCALARS, equal_nan=True)
    assert encoded.kept == sparse.entries
    assert torch.equal(decoded.indices, sparse.indices)
    assert torch.equal(decoded.indices, encoded.sent.indices)
    assert torch.equal(decoded.values, encoded.sent.values)


@pytest.mark.parametrize("value_type", TYPES)
@given(n=st.integers(1, 1000), seed=st.integers(0, 1000))
def test_a_dense_message_does_the_same(value_type, n, seed):
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal(n).astype(np.float32))
    encoded = encode_dense(values, value_type=value_type, step=3, scalars=SCALARS)
    header, decoded = decode_dense(encoded.message, n)
    assert (header.kind, header.count, header.index_code) == ("dense", n, "none")
    assert torch.equal(decoded, encoded.sent)
    assert encoded.message.numel() == dense_bytes(n, value_type, len(SCALARS))
    if value_type == "float32":
        assert torch.equal(decoded, values)


@pytest.mark.parametrize("value_type", TYPES)
def test_a_message_is_added_to_a_sum(value_type):
    n, sparse = 400_000, entries(400_000, 150_000)
    encoded = encode(sparse, n, value_type=value_type)
    dense = encode_dense(torch.randn(n, generator=torch.Generator().manual_seed(0)), value_type=value_type)
    total = torch.ones(n)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        headers = add_message(encoded.message, total), add_message(dense.message, total)
    finally:
        torch.set_num_threads(before)
    assert [header.kind for header in headers] == ["sparse", "dense"]
    assert torch.equal(total, torch.ones(n) + torch.zeros(n).index_copy_(0, *encoded.sent) + dense.sent)


@given(n=st.integers(1, 5000), share=st.floats(0, 1), value_type=st.sampled_from(TYPES), seed=st.integers(0, 100))
def test_what_a_budget_was_made_for_fits_it(n, share, value_type, seed):
    sparse = entries(n, int(share * n), seed)
    size = budget_bytes(n, sparse.entries, value_type, len(SCALARS))
    encoded = encode(sparse, n, value_type=value_type, scalars=SCALARS, budget_bytes=size)
    assert encoded.message.numel() == size
    assert encoded.kept == sparse.entries
    assert torch.equal(decode(encoded.message, n)[1].values, encoded.sent.values)


@given(size=st.integers(header_bytes(0) + 70, 3000), value_type=st.sampled_from(TYPES), seed=st.integers(0, 100))
def test_what_does_not_fit_a_budget_is_the_smallest(size, value_type, seed):
    sparse = entries(8000, 1500, seed)
    encoded = encode(sparse, 8000, value_type=value_type, budget_bytes=size)
    header, decoded = decode(encoded.message, 8000)
    assert encoded.message.numel() == size
    assert encoded.kept == header.count == decoded.values.numel()
    kept = torch.isin(sparse.indices, decoded.indices)
    assert int(kept.sum()) == encoded.kept > 0
    if encoded.kept < 1500:
        assert float(sparse.values[kept].abs().min()) >= float(sparse.values[~kept].abs().max())


def test_a_budget_below_the_header_is_refused():
    with pytest.raises(ConfigError, match="budget_bytes = 79: at least 80"):
        encode(entries(100, 5), 100, value_type="int8", budget_bytes=79)


@pytest.mark.parametrize(("n", "ratio", "bits"), [(2_000_000, 0.1, 14), (2_000_000, 0.01, 17)])
def test_an_entry_with_its_int8_value_takes_few_bits(n, ratio, bits):
    sparse = entries(n, int(n * ratio))
    assert 8 * encode(sparse, n, value_type="int8").message.numel() / sparse.entries <= bits
    assert 8 * budget_bytes(n, sparse.entries, "int8") / sparse.entries <= bits


def test_a_kind_that_was_not_expected_is_an_error():
    with pytest.raises(WireError, match="a dense message where a sparse one"):
        decode(tensor(DENSE), 300)
    with pytest.raises(WireError, match="a sparse message where a dense one"):
        decode_dense(tensor(MESSAGE), 5000)


def test_a_message_about_another_model_is_an_error():
    with pytest.raises(WireError, match="about 5000 parameters, this model has 4999"):
        decode(tensor(MESSAGE), 4999)


def test_a_message_of_another_version_is_an_error():
    with pytest.raises(WireError, match="of version 2, this is version 1"):
        decode(tensor(MESSAGE[:4] + b"\x02" + MESSAGE[5:]), 5000)


def test_an_error_of_the_wire_is_one_of_the_exchange():
    assert issubclass(WireError, FabricError)


def refused(data, n):
    """All ways to read it refuse it, and a sum stays as it was."""
    message, total = tensor(data), torch.zeros(n)
    for read in (decode, decode_dense):
        with pytest.raises(WireError):
            read(message, n)
    with pytest.raises(WireError):
        add_message(message, total)
    return not total.any()


@pytest.mark.parametrize(("whole", "n"), [(MESSAGE, 5000), (DENSE, 300)])
@given(data=st.data())
def test_flipped_bits_are_found(whole, n, data):
    changed = bytearray(whole)
    for position in data.draw(st.sets(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=20)):
        changed[position // 8] ^= 1 << position % 8
    assert refused(changed, n)


def test_each_flipped_byte_is_found():
    for position in range(len(MESSAGE)):
        changed = bytearray(MESSAGE)
        changed[position] ^= 0xFF
        with pytest.raises(WireError):
            decode(tensor(changed), 5000)


@pytest.mark.parametrize(("whole", "n"), [(MESSAGE, 5000), (DENSE, 300)])
@given(data=st.data())
def test_cut_and_extended_messages_are_found(whole, n, data):
    length = data.draw(st.integers(0, len(whole) - 1))
    more = data.draw(st.binary(min_size=1, max_size=100))
    assert refused(whole[:length], n)
    assert refused(whole + more, n)
    overwritten = whole[:length] + more + whole[length + len(more) :]
    assert overwritten == whole or refused(overwritten, n)


@given(st.binary(max_size=300))
def test_random_bytes_are_found(data):
    assert refused(data, 1000)
    assert refused(MESSAGE[:5] + data, 1000)


def resealed(data):
    """Give altered bytes a checksum that matches."""
    fixed = header_bytes(0) - 8
    checksum = zlib.crc32(data[fixed + 8 :], zlib.crc32(data[:fixed]))
    return bytes(data[:fixed]) + checksum.to_bytes(8, "little") + bytes(data[fixed + 8 :])


@given(st.lists(st.tuples(st.integers(5, len(MESSAGE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_lengths_are_checked_even_where_the_checksum_matches(changes):
    changed = bytearray(MESSAGE)
    for position, byte in changes:
        changed[position] = byte
    try:
        header, decoded = decode(tensor(resealed(changed)), 5000)
    except WireError:
        return
    assert decoded.indices.numel() == decoded.values.numel() == header.count <= 5000
    assert header.count == 0 or int(decoded.indices[-1]) < 5000
    assert bool(decoded.values.isfinite().all())


def test_a_value_that_no_sender_writes_is_an_error():
    changed = bytearray(DENSE)
    changed[-2:] = b"\xc0\x7f"  # NaN in bfloat16
    with pytest.raises(WireError, match="NaN or infinity"):
        decode_dense(tensor(resealed(changed)), 300)


@pytest.mark.parametrize("field", range(7))
def test_a_length_without_end_takes_no_memory(field):
    at = 8 + 8 * field
    changed = bytearray(MESSAGE)
    changed[at : at + 8] = (2**63 + 5).to_bytes(8, "little")
    if field == 0:
        assert decode(tensor(resealed(changed)), 5000)[0].step == 2**63 + 5
    else:
        assert refused(resealed(changed), 5000)


def test_what_cannot_be_sent_is_said():
    sparse = entries(100, 5)
    with pytest.raises(ConfigError, match=r"value_type = 'int4'.*did you mean int8"):
        encode(sparse, 100, value_type="int4")
    with pytest.raises(ConfigError, match="at most 2147483647"):
        encode(sparse, 2**31, value_type="int8")
    with pytest.raises(RunError, match="in an update of 50 values"):
        encode(Sparse(torch.tensor([50]), torch.tensor([1.0])), 50, value_type="int8")
    for bad in (float("nan"), float("inf")):
        with pytest.raises(RunError, match="NaN or infinity"):
            encode(Sparse(torch.tensor([1]), torch.tensor([bad])), 50, value_type="int8")
        with pytest.raises(RunError, match="NaN or infinity"):
            encode_dense(torch.tensor([bad]), value_type="float32")
