"""Data sets whose samples or targets have several parts, and what becomes of them before a model."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scadles.data import ArrayDataset, PartsDataset, Preparation, load_dataset, load_npz
from scadles.data.preparation import KEY, Scale
from scadles.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
N = 60
X = {
    "picture": RNG.integers(0, 200, size=(N, 2, 3, 4), dtype=np.uint8),
    "telemetry": RNG.normal(30, 7, size=(N, 3)),
    "zone": RNG.integers(5, size=N),
    "on": RNG.random((N, 2)) < 0.5,
}
Y = {"kind": RNG.integers(3, size=N), "box": RNG.normal(100, 9, size=(N, 2)).astype(np.float32)}
KINDS = {"kind": "labels", "box": "numbers"}


@pytest.fixture
def file(tmp_path):
    """Write a file of arrays: ``file({"x.a": ..., "y": ...}, left_out=[...])``."""

    def write(parts=None, **changed):
        parts = (
            {f"x.{name}": x for name, x in X.items()} | {f"y.{name}": y for name, y in Y.items()}
            if parts is None
            else parts
        )
        arrays = {f"train_{name}": part[:50] for name, part in parts.items()}
        arrays |= {f"test_{name}": part[50:] for name, part in parts.items()} | changed
        np.savez(tmp_path / "parts.npz", **{name: array for name, array in arrays.items() if array is not None})
        return tmp_path / "parts.npz"

    return write


def test_samples_and_targets_by_part(file):
    data = load_npz(file(), KINDS)
    assert (data.train_size, data.classes, data.target.is_label, data.vocabulary) == (50, 0, False, None)
    assert data.layout.shapes == {"picture": (2, 3, 4), "telemetry": (3,), "zone": (), "on": (2,)}
    assert {part.name: part.below for part in data.layout.parts}["zone"] == 5
    numbers = np.array([7, 3, 3])
    x, y = data.samples(numbers)
    assert (tuple(x.shape), x.dtype) == ((3, *data.shape), data.dtype)
    raw, told = data.layout.unpack(x), data.target.unpack(y)
    for name, part in X.items():
        np.testing.assert_array_equal(
            raw[name], part[numbers].astype(np.float32) if part.dtype == float else part[numbers]
        )
    for name, part in Y.items():
        np.testing.assert_array_equal(told[name], part[numbers])
    test_x, test_y = data.test()
    assert (len(test_x), len(test_y)) == (10, 10)


def test_each_part_is_prepared_as_if_it_were_alone(file):
    data = load_npz(file(), KINDS)
    x = data.samples(np.arange(50))[0]
    prepared = data.prepare(x)
    for name, part in X.items():
        alone = ArrayDataset(
            "alone",
            (part[:50].astype(np.float32) if part.dtype == float else part[:50], np.zeros(50, int)),
            (part[50:], np.zeros(10, int)),
            2,
        )
        expected = alone.prepare(data.layout.unpack(x)[name])
        assert torch.equal(prepared[name], expected), name
        assert prepared[name].is_contiguous()
    assert {name: part.dtype for name, part in prepared.items()} == {
        "picture": torch.float32,
        "telemetry": torch.float32,
        "zone": torch.int64,
        "on": torch.float32,
    }
    assert prepared["telemetry"].mean(0).abs().max() < 1e-5
    mean, deviation = data.target_scale["box"]
    np.testing.assert_allclose(mean, Y["box"][:50].mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation, Y["box"][:50].std(0), rtol=1e-5)
    assert data.target_scale["kind"] is None
    plain = load_npz(file(), KINDS, normalize=False)
    assert plain.target_scale is None
    np.testing.assert_array_equal(plain.prepare(x)["telemetry"], X["telemetry"][:50].astype(np.float32))


def test_one_of_the_two_may_have_one_part(file):
    several = {f"x.{name}": x for name, x in X.items()}
    data = load_npz(file(several | {"y": Y["kind"]}), "labels")
    assert (data.classes, data.target.is_label) == (3, True)
    np.testing.assert_array_equal(data.labels(np.array([4, 2])), Y["kind"][[4, 2]])
    data = load_npz(file({"x": X["picture"]} | {f"y.{name}": y for name, y in Y.items()}), KINDS)
    assert (data.layout, data.shape, data.dtype) == (None, (2, 3, 4), torch.uint8)
    assert data.prepare(data.samples(np.arange(4))[0]).dtype == torch.float32
    unlabelled = load_npz(file(several), "any")
    assert unlabelled.target.is_none
    assert tuple(unlabelled.samples(np.arange(4))[1].shape) == (4, 0)


def test_parts_in_order(file):
    data = load_npz(file({"x.0": X["picture"], "x.1": X["telemetry"], "y": Y["box"]}), "any")
    assert data.layout.in_order
    prepared = data.prepare(data.samples(np.arange(4))[0])
    assert [tuple(part.shape) for part in prepared] == [(4, 2, 3, 4), (4, 3)]


@pytest.mark.parametrize(
    ("changed", "targets", "message"),
    [
        (
            {},
            "labels",
            r"train_y: found parts kind, box, expected one array, as the task reads; name the parts in task",
        ),
        ({}, {"kind": "labels"}, r"train_y: found parts kind, box, expected train_y.kind, as task.parts names them"),
        ({"train_x": X["on"]}, KINDS, "train_x: found an array of this name and parts picture, telemetry, zone, on"),
        ({"test_x.zone": None}, KINDS, "test_x: found parts picture, telemetry, on, expected parts picture, telemetry"),
        ({"test_y.box": None}, KINDS, "test_y: found parts kind, expected parts kind, box"),
        ({"train_x.on": X["on"][:9]}, KINDS, "train_x.on: found 9 samples, expected 50, as train_x.picture"),
        ({"train_y.kind": Y["kind"][:9]}, KINDS, r"train_y.kind: found int64 \[9\], expected integer labels \[50\]"),
        ({"test_x.telemetry": X["telemetry"] * np.nan}, KINDS, "test_x.telemetry: found NaN or infinite values"),
        (
            {"test_x.telemetry": X["on"][50:]},
            KINDS,
            r"test_x.telemetry: found bool \[10, 2\], expected the form of train",
        ),
        ({"train_x.zone": X["zone"][:50].astype(str)}, KINDS, "train_x.zone: found .*, expected numbers"),
    ],
)
def test_what_does_not_belong_together_is_refused(file, changed, targets, message):
    with pytest.raises(DataError, match=message):
        load_npz(file(**changed), targets)


def test_a_name_that_is_none_is_refused(file):
    with pytest.raises(ConfigError, match="parts named 'a-b', 'c': expected different names"):
        load_npz(file({"x.a-b": X["on"], "x.c": X["on"], "y": Y["kind"]}), "labels")


def test_parts_belong_to_files_of_arrays(tmp_path):
    about = {"root": tmp_path, "classes": 2, "shape": (3, 8, 8), "test_samples": 1, "seed": 0}
    with pytest.raises(ConfigError, match=r"digits has targets of one part: use npz:PATH with arrays train_y.kind"):
        load_dataset("digits", targets=KINDS, **about)


def test_a_file_says_how_samples_are_prepared(file, tmp_path):
    data = load_npz(file(), KINDS)
    mean, deviation = data.target_scale["box"]
    answers = {"box": Scale(mean.tolist(), deviation.tolist()), "kind": Scale()}
    save_file(
        {"weight": torch.zeros(1)}, tmp_path / "m.safetensors", {KEY: Preparation(data.preparation, answers).to_json()}
    )
    preparation = Preparation.of(tmp_path / "m.safetensors")
    x = data.samples(np.arange(20))[0]
    found, expected = preparation.samples(data.layout.unpack(x)), data.prepare(x)
    for name, part in expected.items():
        assert torch.equal(found[name], part), name
    said = {"box": torch.randn(4, 2), "kind": torch.randn(4, 3), "hidden": torch.ones(4)}
    back = preparation.answers(said)
    assert torch.equal(back["box"], said["box"] * deviation + mean)
    assert back["kind"] is said["kind"]
    assert back["hidden"] is said["hidden"]


def test_what_a_model_was_not_trained_on_is_refused():
    channels = Scale([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    one, two = Preparation(channels, Scale()), Preparation({"window": channels, "mode": Scale()}, Scale())
    in_order = Preparation({"0": channels, "1": Scale()}, Scale())
    window = np.zeros((4, 3, 5), np.float32)
    assert one.samples(window).shape == (4, 3, 5), "an array will do"
    prepared, mode = in_order.samples((window, np.ones((4, 1))))
    assert (prepared[0, :, 0].tolist(), mode.dtype) == ([-1, -2, -3], torch.float32)
    for preparation, raw, said in [
        (one, {"window": window}, "have the parts window, expected one tensor"),
        (one, window[:, :1], r"raw samples have shape \[4, 1, 5\], expected \[n, 3\] or \[n, 3, ...\]"),
        (two, window, "are one ndarray, expected the parts window, mode"),
        (two, {"window": window}, "have the parts window, expected the parts window, mode"),
        (two, {"window": window[:, :2], "mode": window}, "part window have shape"),
        (in_order, (window,), "have the parts 0, expected the parts 0, 1"),
    ]:
        with pytest.raises(ConfigError, match=said):
            preparation.samples(raw)


@pytest.mark.parametrize("name", ["digits", "diabetes", "synthetic-images", "synthetic-windows"])
def test_a_known_data_set_says_how_it_prepares(tmp_path, name):
    shape = (3, 16) if name == "synthetic-windows" else (3, 8, 8)
    about = {"root": tmp_path, "classes": 3, "shape": shape, "test_samples": 5, "seed": 0}
    data = load_dataset(name, targets="numbers" if name == "diabetes" else "labels", **about)
    raw = data.test()[0]
    assert torch.equal(Preparation(data.preparation, Scale()).samples(raw), data.prepare(raw))


@pytest.mark.parametrize("content", [None, b"", b"not a file of tensors"])
def test_a_file_that_says_nothing_is_refused(tmp_path, content):
    path = tmp_path / "m.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="does not say how samples are prepared"):
        Preparation.of(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match="does not say how samples are prepared"):
        Preparation.of(path)


def test_a_data_set_of_parts_is_no_array(file):
    assert isinstance(load_npz(file(), KINDS), PartsDataset)
    assert isinstance(load_npz(file({"x": X["on"], "y": Y["kind"]}), "labels"), ArrayDataset)
