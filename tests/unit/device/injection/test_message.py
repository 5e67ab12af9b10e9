import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.device.injection import SampleFormat
from scadles.errors import ConfigError, FabricError
from scadles.targets import TargetType

FORM = SampleFormat((2, 3, 3), torch.uint8, classes=10)


def samples(count, form=FORM):
    x = torch.arange(count * 18).remainder(251).view(count, *form.shape).to(form.dtype)
    return x, torch.arange(count) % form.target.classes


def refusal(message, form=FORM):
    with pytest.raises(FabricError) as caught:
        form.unpack(message, sender=3)
    assert "device 3 shared samples that cannot be used" in str(caught.value)
    return str(caught.value)


def sealed(raw):
    """A message whose checksum is right whatever was done to it."""
    raw = bytearray(raw.numpy().tobytes())
    struct.pack_into("<I", raw, 12, zlib.crc32(bytes(raw[16:])))
    return torch.frombuffer(raw, dtype=torch.uint8)


@given(st.integers(0, 30), st.sampled_from([torch.uint8, torch.float32, torch.float64]), st.floats(0, 1e9))
def test_what_goes_in_comes_out(count, dtype, at_s):
    form = SampleFormat((2, 3, 3), dtype, classes=10)
    x, y = samples(count, form)
    message = form.pack(x, y, at_s)
    assert (message.dtype, len(message)) == (torch.uint8, form.message_bytes(count))
    found = form.unpack(message, sender=0)
    assert found.x.dtype == dtype
    assert torch.equal(found.x, x)
    assert torch.equal(found.y, y)
    assert found.sent_at_s == at_s


def test_uint8_stays_uint8():
    assert FORM.message_bytes(101) - FORM.message_bytes(1) == 100 * (18 + 4)


def test_a_sample_lies_in_the_message_as_it_is():
    x, y = samples(4)
    raw = FORM.pack(x, y, 0.0).numpy().tobytes()
    assert x[2].numpy().tobytes() in raw


@given(st.integers(0, 3 * 22 + 39), st.integers(1, 255))
def test_no_flipped_bit_gets_through(place, change):
    message = FORM.pack(*samples(3), 1.5).clone()
    message[place] ^= change
    refusal(message)


@given(st.integers(0, 3 * 22 + 39))
def test_no_torn_message_gets_through(length):
    refusal(FORM.pack(*samples(3), 1.5)[:length])


def test_more_samples_than_bytes_are_refused_before_anything_is_made_of_them():
    message = FORM.pack(*samples(3), 1.5).clone()
    message[8:12] = 255
    assert "4294967295 samples take" in refusal(message)


@pytest.mark.parametrize(
    "other",
    [
        SampleFormat((2, 3, 3), torch.float32, classes=10),
        SampleFormat((3, 2, 3), torch.uint8, classes=10),
        SampleFormat((18,), torch.uint8, classes=10),
    ],
)
def test_samples_of_another_kind_are_refused(other):
    x, y = samples(3)
    refusal(other.pack(x.view(3, *other.shape).to(other.dtype), y, 0.0))


def test_foreign_bytes_and_other_versions_are_refused():
    message = FORM.pack(*samples(3), 1.5)
    foreign, newer = message.clone(), message.clone()
    foreign[0], newer[4] = 0, 2
    assert "not b'ScDS' and 1" in refusal(sealed(foreign))
    assert "version 2" in refusal(sealed(newer))


def test_labels_that_are_no_classes_are_refused():
    x, _ = samples(2)
    wide = SampleFormat((2, 3, 3), torch.uint8, classes=99)
    assert "labels 3 to 40, expected 0 to 9" in refusal(wide.pack(x, torch.tensor([40, 3]), 0.0))
    refusal(wide.pack(x, torch.tensor([-1, 3]), 0.0))


def test_nan_is_refused():
    form = SampleFormat((1,), torch.float32, classes=2)
    assert "NaN" in refusal(form.pack(torch.tensor([[np.nan]]), torch.tensor([0]), 0.0), form)


@pytest.mark.parametrize("dtype", ["bool", "int16", "int64", "float16", "float32"])
@pytest.mark.parametrize(
    "target",
    [TargetType.numbers((3,)), TargetType.numbers(()), TargetType((2, 2), torch.uint8, 5), TargetType.none()],
    ids=["three numbers", "one number", "label map", "none"],
)
def test_samples_of_any_dtype_travel_with_any_target(dtype, target):
    form = SampleFormat((2, 3), getattr(torch, dtype), target=target)
    x = torch.arange(24).reshape(4, 2, 3).remainder(5).to(getattr(torch, dtype))
    y = torch.rand(4, *target.shape).mul(5).to(target.dtype)
    message = form.pack(x, y, 1.5)
    assert len(message) == form.message_bytes(4)
    found = form.unpack(message, sender=1)
    assert torch.equal(found.x, x)
    assert torch.equal(found.y, y)


def test_targets_that_cannot_be_are_refused():
    numbers, pixels = TargetType.numbers((2,)), TargetType((2,), torch.uint8, 3)
    for target, y, reason in (
        (numbers, torch.tensor([[1.0, np.nan]]), "a target with NaN"),
        (pixels, torch.tensor([[2, 3]]), "outside 0 to 2"),
    ):
        form = SampleFormat((1,), torch.float32, target=target)
        assert reason in refusal(form.pack(torch.ones(1, 1), y, 0.0), form)


def test_other_dtypes_cannot_travel():
    with pytest.raises(ConfigError, match=r"samples of torch.complex64 cannot be shared"):
        SampleFormat((1,), torch.complex64, classes=2)
