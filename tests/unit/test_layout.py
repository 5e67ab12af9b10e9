"""Samples and targets of several parts: rows of bytes and back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from scadles.errors import ConfigError
from scadles.layout import Layout, Part
from scadles.targets import TargetType

DTYPES = [torch.uint8, torch.bool, torch.int16, torch.int64, torch.float16, torch.float32, torch.float64]
SHAPES = [(), (3,), (1, 5), (2, 3, 3)]
KINDS = st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES))


def numpy_type(dtype):
    return np.dtype(str(dtype).removeprefix("torch."))


def drawn(data, shape, dtype):
    elements = {"allow_nan": False} if dtype.is_floating_point else None
    return torch.from_numpy(data.draw(arrays.arrays(numpy_type(dtype), shape, elements=elements)))


@given(st.data(), st.lists(KINDS, min_size=1, max_size=5), st.integers(0, 4), st.booleans())
def test_what_is_packed_comes_back(data, kinds, n, in_order):
    names = [str(i) if in_order else f"part_{i}" for i in range(len(kinds))]
    layout = Layout([Part(name, *kind) for name, kind in zip(names, kinds, strict=True)])
    given = [drawn(data, (n, *shape), dtype) for shape, dtype in kinds]
    rows = layout.pack(layout.structure(given))
    assert (rows.dtype, tuple(rows.shape), layout.nbytes % 8) == (torch.uint8, (n, layout.nbytes), 0)
    for part, found, expected in zip(layout.parts, layout.values(layout.unpack(rows)), given, strict=True):
        assert torch.equal(found, expected), part
    dense = b"".join(layout.packed_of(row) for row in rows)
    again = layout.rows_of(np.frombuffer(dense, np.uint8).reshape(n, layout.packed_nbytes).copy())
    assert torch.equal(again, rows)


LAYOUT = Layout(
    [Part("picture", (1, 2), torch.uint8), Part("speed", (2,), torch.float32), Part("id", (), torch.int64, below=5)]
)
GOOD = {"picture": [[1, 2]], "speed": [0.5, 1.0], "id": 4}


def sample(**changes):
    given = GOOD | changes
    kinds = {"picture": np.uint8, "speed": np.float32, "id": np.int64}
    return {name: np.asarray(value, kinds.get(name)) for name, value in given.items() if value is not None}


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (sample(speed=None), "part speed is missing"),
        (sample(depth=1), "1 part beyond picture, speed, id"),
        (sample(picture=[1, 2]), r"part picture: shape \[2\], expected \[1, 2\]"),
        (sample() | {"picture": np.ones((1, 2))}, "part picture: dtype float64, expected uint8"),
        (sample() | {"speed": np.array([1, 2])}, "part speed: dtype int64, expected float32"),
        (sample() | {"speed": "fast"}, "part speed is no array of numbers"),
        ([1, 2, 3], "no parts picture, speed, id"),
        (None, "no parts picture, speed, id"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_part(structure, reason):
    with pytest.raises(ValueError, match=reason):
        LAYOUT.pack_one(structure)


def test_any_floating_numbers_will_do():
    row = LAYOUT.pack_one(sample() | {"speed": np.array([0.5, 1.0])})
    assert LAYOUT.unpack(row[None])["speed"].tolist() == [[0.5, 1.0]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"speed": [1, np.nan]}, "part speed: NaN or infinite values"),
        ({"id": 5}, "part id: value 5, expected 0 to 4"),
        ({"id": -1}, "part id: value -1, expected 0 to 4"),
    ],
)
def test_values_that_cannot_be_are_found(changes, reason):
    rows = torch.stack([LAYOUT.pack_one(sample()), LAYOUT.pack_one(sample(**changes))])
    assert LAYOUT.bad(rows).tolist() == [False, True]
    assert LAYOUT.why_bad(rows[1]) == reason


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a.b"], ["1", "0"], ["a", "0"], ["ä"], [""]])
def test_names_that_are_none_are_refused(names):
    with pytest.raises(ConfigError, match="parts named"):
        Layout([Part(name, (), torch.float32) for name in names])


def test_parts_of_a_sequence_come_in_order():
    layout = Layout([Part("0", (), torch.float32), Part("1", (2,), torch.uint8)])
    row = layout.pack_one((torch.tensor(1.5), torch.tensor([1, 2], dtype=torch.uint8)))
    assert [part.tolist() for part in layout.unpack(row[None])] == [[1.5], [[1, 2]]]
    assert layout.shapes == ((), (2,))
    with pytest.raises(ValueError, match="1 parts, expected 2"):
        layout.pack_one((torch.tensor(1.5),))


def test_targets_of_several_parts_are_judged_by_part():
    target = TargetType.of_parts({"kind": TargetType.label(3), "box": TargetType.numbers((2,))})
    assert (target.is_label, target.is_none, target.classes, target.nbytes) == (False, False, 0, 16)
    y = target.layout.pack({"kind": torch.tensor([0, 3, 1]), "box": torch.tensor([[1, 2], [1, 2], [1, np.nan]])})
    assert target.misfit(tuple(y.shape[1:]), y.dtype) is None
    assert target.bad(y).tolist() == [False, True, True]
    assert target.why_bad(y[1]) == "part kind: label 3, expected 0 to 2"
    assert target.why_bad(y[2]) == "part box: a target with NaN or infinite values"
    assert target.unpack(y)["kind"].tolist() == [0, 3, 1]
