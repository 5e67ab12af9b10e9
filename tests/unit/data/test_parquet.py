import sys

import numpy as np
import pytest

from scadles.data import load_csv, load_dataset
from scadles.data.table import Columns
from scadles.errors import DataError, MissingExtraError


@pytest.fixture
def written(tmp_path):
    """Write columns to a Parquet file, and the same to a CSV file."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(**columns):
        parquet.write_table(arrow.table(columns), tmp_path / "table.parquet")
        rows = zip(*columns.values(), strict=True)
        lines = [",".join(columns), *(",".join("" if v is None else str(v) for v in row) for row in rows)]
        (tmp_path / "table.csv").write_text("\n".join(lines))
        return tmp_path / "table.parquet"

    return write


def load(path, columns, targets="labels"):
    common = {"root": None, "classes": 2, "shape": (1, 1, 1), "test_samples": 1, "seed": 0}
    return load_dataset(f"parquet:{path}", columns=columns, targets=targets, **common)


@pytest.mark.parametrize(
    ("columns", "targets"),
    [
        (Columns(target=("y",)), "labels"),
        (Columns(("a", "b"), ("kind",)), "labels"),
        (Columns(("b",), ("a", "y"), window=4), "numbers"),
        (Columns(("b", "a")), "any"),
    ],
)
def test_it_is_what_the_same_csv_is(written, columns, targets):
    rng = np.random.default_rng(0)
    table = {"a": rng.normal(size=40).tolist(), "b": list(range(40)), "y": [i % 3 for i in range(40)]}
    if "kind" in columns.target:
        table["kind"] = [("bird", "fish")[i % 2] for i in range(40)]
    table["a"][7] = None
    path = written(**table)
    found, expected = load(path, columns, targets), load_csv(path.with_suffix(".csv"), columns, targets)
    assert (found.shape, found.target, found.train_size) == (expected.shape, expected.target, expected.train_size)
    numbers = np.arange(found.train_size)
    for one, other in zip(
        (*found.samples(numbers), *found.test()), (*expected.samples(numbers), *expected.test()), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_truth_values_are_numbers_and_categories_words(written):
    arrow = pytest.importorskip("pyarrow")
    kind = arrow.array(["b", "a"] * 10).dictionary_encode()
    path = written(on=[True, False] * 10, y=kind)
    data = load(path, Columns(target=("y",)))
    x, y = data.samples(np.arange(4))
    assert np.array_equal(x[:, 0], y)


def test_what_cannot_be_read_is_one_sentence(written, tmp_path):
    path = written(name=["x"] * 20, a=list(range(20)), y=[0, 1] * 10)
    with pytest.raises(DataError, match=r"column 'name': string is no number; leave the column out of data.features"):
        load(path, Columns(target=("y",)))
    with pytest.raises(DataError, match="has no column 'yy'; did you mean y"):
        load(path, Columns(target=("yy",)))
    with pytest.raises(DataError, match="no column is read"):
        load(path, Columns((), ("y",)))
    with pytest.raises(DataError, match="No such file or directory; expected a Parquet file"):
        load(tmp_path / "none.parquet", Columns())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is not a Parquet file"):
        load(path, Columns(("a",), ("y",)))
    with pytest.raises(DataError, match="a folder, not a file"):
        load(tmp_path, Columns())


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"parquet:PATH needs the extra 'parquet'"):
        load(tmp_path / "t.parquet", Columns())
