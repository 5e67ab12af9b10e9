import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.streams import Inspector, Records, Rejected
from scadles.targets import TargetType

NAN, INF = float("nan"), float("inf")


def records(x, y, rejected=()):
    n = len(y)
    return Records(np.arange(100, 100 + n), np.arange(n, dtype=np.float64), x, torch.as_tensor(y), rejected)


def test_what_is_right_passes_untouched():
    x = torch.zeros((3, 1, 2, 2), dtype=torch.uint8)
    good, rejected = Inspector((1, 2, 2), torch.uint8, 10).split(records(x, [0, 9, 5]))
    assert good.x is x
    assert good.offsets.tolist() == [100, 101, 102]
    assert rejected == ()


def test_values_and_labels():
    x = torch.tensor([[0.0, 1.0], [NAN, 1.0], [0.0, 1.0], [0.0, -INF], [2.0, 3.0], [0.0, 1.0]])
    good, rejected = Inspector((2,), torch.float32, 3).split(records(x, [0, 1, 3, 2, 2, -1]))
    assert good.offsets.tolist() == [100, 104]
    assert good.times.tolist() == [0.0, 4.0]
    assert good.x.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert good.y.tolist() == [0, 2]
    assert rejected == (
        Rejected(101, "NaN or infinite values"),
        Rejected(102, "label 3, expected 0 to 2"),
        Rejected(103, "NaN or infinite values"),
        Rejected(105, "label -1, expected 0 to 2"),
    )


def test_labels_that_are_no_integers():
    good, rejected = Inspector((1,), torch.float32, 3).split(records(torch.zeros((4, 1)), [1.0, 1.5, NAN, 2.0]))
    assert good.y.tolist() == [1, 2]
    assert good.y.dtype == torch.int64
    assert [r.reason for r in rejected] == ["label 1.5, expected 0 to 2", "label nan, expected 0 to 2"]


def test_a_tensor_of_another_form_is_rejected_whole():
    good, rejected = Inspector((1, 2, 2), torch.uint8, 3).split(
        records(torch.zeros((2, 1, 3, 3), dtype=torch.uint8), [0, 1])
    )
    assert len(good) == 0
    assert good.x.shape == (0, 1, 2, 2)
    assert [r.reason for r in rejected] == ["shape [1, 3, 3], expected [1, 2, 2]"] * 2
    _, rejected = Inspector((2,), torch.uint8, 3).split(records(torch.zeros((2, 2)), [0, 1]))
    assert rejected[0].reason == "dtype float32, expected uint8"


def test_samples_of_different_forms_are_sorted_out_one_by_one():
    x = [torch.zeros(2), torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.tensor([NAN, 0.0]), torch.ones(2)]
    good, rejected = Inspector((2,), torch.float32, 3).split(records(x, [0, 0, 0, 0, 2]))
    assert good.offsets.tolist() == [100, 104]
    assert torch.equal(good.x, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert [r.offset for r in rejected] == [101, 102, 103]


def test_other_floating_samples_are_converted_before_they_are_judged():
    x = torch.tensor([[1.0], [1e300]], dtype=torch.float64)
    good, rejected = Inspector((1,), torch.float32, 3).split(records(x, [0, 0]))
    assert good.x.dtype == torch.float32
    assert [r.offset for r in rejected] == [101]


def test_what_the_source_rejected_is_handed_on_in_order():
    given_ = (Rejected(99, "torn"),)
    good, rejected = Inspector((1,), torch.float32, 3).split(records(torch.tensor([[NAN]]), [0], given_))
    assert rejected == (Rejected(99, "torn"), Rejected(100, "NaN or infinite values"))
    assert good.rejected == ()


def test_nothing_in_nothing_out():
    for x in (torch.empty((0, 2)), []):
        good, rejected = Inspector((2,), torch.float32, 3).split(records(x, torch.empty(0, dtype=torch.int64)))
        assert (len(good), rejected) == (0, ())
        assert good.x.shape == (0, 2)


rows = st.tuples(st.sampled_from([0.0, 1.0, NAN, INF]), st.integers(-1, 3))


@settings(deadline=None)
@given(st.lists(rows, max_size=20), st.booleans())
def test_every_record_is_either_good_or_rejected(given_rows, as_sequence):
    x = torch.tensor([[value] for value, _ in given_rows]).reshape(-1, 1)
    y = torch.tensor([label for _, label in given_rows], dtype=torch.int64)
    good, rejected = Inspector((1,), torch.float32, 3).split(records(list(x) if as_sequence else x, y))
    assert sorted([*good.offsets.tolist(), *(r.offset for r in rejected)]) == list(range(100, 100 + len(y)))
    wanted = [i for i, (value, label) in enumerate(given_rows) if np.isfinite(value) and 0 <= label < 3]
    assert good.offsets.tolist() == [100 + i for i in wanted]
    assert good.y.tolist() == [given_rows[i][1] for i in wanted]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_will_do(dtype):
    good, rejected = Inspector((1,), torch.float32, 3).split(records(torch.ones((2, 1), dtype=dtype), [0, 1]))
    assert (len(good), rejected) == (2, ())


NUMBERS, PIXELS = TargetType.numbers((2,)), TargetType((2, 2), torch.uint8, 3)


@pytest.mark.parametrize(
    ("target", "y", "expected"),
    [
        (NUMBERS, torch.tensor([[0.0, 1.0], [NAN, 0.0]]), "a target with NaN or infinite values"),
        (NUMBERS, torch.ones(2, 3), "target of shape [3], expected [2]"),
        (NUMBERS, torch.ones(2), "target of shape [], expected [2]"),
        (NUMBERS, torch.ones(2, 2, dtype=torch.int64), "target of dtype int64, expected float32"),
        (PIXELS, torch.tensor([[[0, 1], [2, 0]], [[0, 3], [0, 0]]]), "a target with values outside 0 to 2"),
        (PIXELS, torch.ones(2, 2, 2), "target of dtype float32, expected integers"),
        (TargetType.none(), torch.ones(2), "target of shape [], expected [0]"),
    ],
)
def test_other_targets_are_looked_at_like_samples(target, y, expected):
    good, rejected = Inspector((1,), torch.float32, target=target).split(records(torch.ones((2, 1)), y))
    assert [reason for _, reason in rejected] == [expected] * (2 - len(good))
    assert len(rejected) >= 1
    assert (tuple(good.y.shape), good.y.dtype) == ((len(good), *target.shape), target.dtype)


def test_floating_targets_are_converted():
    inspector = Inspector((1,), torch.float32, target=NUMBERS)
    good, rejected = inspector.split(records(torch.ones((2, 1)), torch.ones(2, 2, dtype=torch.float64)))
    assert (good.y.dtype, rejected) == (torch.float32, ())


def test_identifiers_are_within_their_vocabulary():
    x = torch.tensor([[0, 6, 3], [0, 7, 3], [-1, 0, 0]], dtype=torch.int32)
    inspector = Inspector((3,), torch.int32, target=TargetType.none(), below=7)
    good, rejected = inspector.split(records(x, torch.empty(3, 0)))
    assert good.x.tolist() == [[0, 6, 3]]
    assert [reason for _, reason in rejected] == ["value 7, expected 0 to 6", "value -1, expected 0 to 6"]


def test_samples_may_be_single_numbers():
    good, rejected = Inspector((), torch.float32, 2).split(records(torch.tensor([1.0, NAN]), [0, 1]))
    assert (good.x.tolist(), [reason for _, reason in rejected]) == ([1.0], ["NaN or infinite values"])
