import math

import numpy as np
import pytest
import torch
from sklearn import datasets

from scadles.config import load_config
from scadles.data import load_csv, load_table
from scadles.data.table import Columns
from scadles.errors import ConfigError, DataError
from scadles.targets import TargetType


@pytest.fixture
def table(tmp_path):
    """Write a CSV file: ``table(text)``."""

    def write(text):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def rows(count, text="{i},{j},{k}", head="a,b,y\n"):
    return head + "\n".join(text.format(i=i, j=i * 0.5, k=i % 3) for i in range(count))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_row_is_a_sample_and_every_fifth_of_each_label_a_test(table, delimiter, end):
    text = "\ufeff" + rows(30).replace(",", delimiter).replace("\n", end)
    data = load_csv(table(text), Columns(target=("y",)))
    assert (data.shape, data.target, data.train_size) == ((2,), TargetType.label(3), 24)
    x, y = data.test()
    assert x[:, 0].tolist() == [12, 13, 14, 27, 28, 29]
    assert np.array_equal(x[:, 1], x[:, 0] / 2)
    assert np.array_equal(y, x[:, 0] % 3)
    assert np.array_equal(np.bincount(y), [2, 2, 2])


def test_columns_are_chosen_and_words_become_labels(table):
    text = "id,size,kind,colour\n" + "\n".join(f'x{i},{i},"{"fish, big" if i % 2 else "bird"}",red' for i in range(20))
    data = load_csv(table(text), Columns(features=("size",), target=("kind",)))
    x, y = data.samples(np.arange(16))
    assert (data.shape, data.classes) == ((1,), 2)
    assert np.array_equal(y, x[:, 0] % 2)  # bird comes before fish


def test_several_targets_and_none(table):
    path = table(rows(20))
    data = load_csv(path, Columns(features=("a",), target=("b", "y")), "numbers")
    x, y = data.test()
    assert data.target == TargetType.numbers((2,))
    assert np.array_equal(y[:, 0], x[:, 0] / 2)
    assert load_csv(path, Columns(), "any").target == TargetType.none()
    assert load_csv(path, Columns(), "any").shape == (3,)


def test_windows_are_split_by_time_and_share_no_row_with_tests(table):
    data = load_csv(table(rows(50)), Columns(features=("a", "b"), target=("y",), window=4))
    assert (data.shape, data.train_size) == ((2, 4), 37)
    x, y = data.samples(np.arange(37))
    assert np.array_equal(x[5, 0], [5, 6, 7, 8])
    assert np.array_equal(x[5, 1], [2.5, 3, 3.5, 4])
    assert np.array_equal(y, x[:, 0, -1] % 3)  # that of the last row
    test_x, _ = data.test()
    assert len(test_x) == 7
    assert x[:, 0].max() < test_x[:, 0].min()


@pytest.mark.parametrize("missing", ["", "NA", "nan", "?"])
def test_what_misses_a_number_is_never_for_tests(table, missing):
    lines = rows(40).splitlines()
    lines[5] = lines[5].replace("4,", f"{missing},", 1)  # row 4, which would be a test
    lines[8] = f"7,{missing},1"
    data = load_csv(table("\n".join(lines)), Columns(target=("y",)), "numbers")
    x, y = data.samples(np.arange(data.train_size))
    assert math.isnan(x[:, 1][x[:, 0] == 7])
    assert torch.isfinite(data.test()[0]).all()
    assert torch.isfinite(y).all()
    lines[-4] = f"36,{missing},1"
    windows = load_csv(table("\n".join(lines)), Columns(("b",), window=2), "any")
    assert len(windows.test()[0]) == 7 - 2


@pytest.mark.parametrize(
    ("text", "columns", "targets", "message"),
    [
        ("a,b\n1,2\n3\n", Columns(), "any", r"table.csv, line 3: 1 cells, and there are 2 columns"),
        ("a,b\n1,x\n", Columns(), "any", r"row 1, column 'b': 'x' is no number; leave the column out of data.features"),
        ("a,a\n1,2\n", Columns(), "any", r"its first line must name the columns, each once; it is 'a,a'"),
        ("", Columns(), "any", r"its first line must name the columns"),
        ("a,b\n", Columns(), "any", r"has no rows"),
        (rows(3), Columns(), "any", r"3 samples are too few, at least 5 whole ones are needed"),
        (rows(9), Columns(("b", "aa")), "any", r"has no column 'aa'; did you mean a\?"),
        (rows(9), Columns(target=("z",)), "labels", r"has no column 'z'; there are a, b, y"),
        (rows(30), Columns(target=("b",)), "labels", r"data.target = b: found float64 \[24\], expected integer labels"),
        (rows(30), Columns(), "labels", r"data.target = none: found nothing, expected integer labels"),
        (
            rows(30),
            Columns(("a",), window=9),
            "any",
            r"30 rows make too few windows of data.window = 9; at least 45 are",
        ),
        (b"\xff\xfe\x00a", Columns(), "any", r"is not a CSV file"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(table, text, columns, targets, message):
    path = table(text)
    with pytest.raises(DataError, match=message) as caught:
        load_csv(path, columns, targets)
    assert str(path) in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none.csv: No such file or directory; expected a CSV file"):
        load_csv(tmp_path / "none.csv", Columns())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"features": ["a"]},
            "data: features: it belongs to dataset csv:PATH or parquet:PATH, and dataset is digits; leave it out",
        ),
        ({"window": 3}, "data: window: it belongs to dataset csv:PATH"),
        ({"dataset": "csv:x", "features": []}, "data: features: name at least one column, or leave it out"),
        ({"dataset": "csv:x", "window": 1}, "data.window = 1: input should be greater than or equal to 2"),
    ],
)
def test_settings_of_tables(data, message):
    with pytest.raises(ConfigError, match=message):
        load_config({"steps": 1, "data": data})
    assert load_config({"steps": 1, "data": {"dataset": "csv:x", "target": "y"}}).data.targets == ("y",)


@pytest.mark.parametrize(
    ("name", "load", "targets"),
    [
        ("wine", datasets.load_wine, "labels"),
        ("breast-cancer", datasets.load_breast_cancer, "labels"),
        ("diabetes", lambda: datasets.load_diabetes(scaled=False), "numbers"),
    ],
)
def test_tables_of_scikit_learn_are_what_it_says(name, load, targets):
    data, expected = load_table(name, targets), load()
    x, y = data.samples(np.arange(data.train_size))
    test_x, test_y = data.test()
    whole = np.concatenate([np.column_stack([x, y]), np.column_stack([test_x, test_y])])
    known = np.column_stack([expected.data, expected.target]).astype(np.float32)
    assert np.array_equal(whole[np.lexsort(whole.T)], known[np.lexsort(known.T)])
    assert len(test_x) == pytest.approx(len(whole) / 5, abs=3)
    if targets == "labels":
        assert np.bincount(test_y).min() >= 9
    with pytest.raises(DataError, match=f"{name}: data.target = none: found"):
        load_table(name, "multi-hot")
