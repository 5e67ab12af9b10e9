"""Files of arrays that somebody made to do harm: one sentence, and no memory for what is not there."""

import io
import os
import resource
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.data import load_npz
from scadles.errors import DataError

GOOD = {
    "train_x": np.arange(12 * 16, dtype=np.uint8).reshape(12, 1, 4, 4),
    "train_y": np.arange(12) % 4,
    "test_x": np.arange(4 * 16, dtype=np.uint8).reshape(4, 1, 4, 4),
    "test_y": np.arange(4),
}


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text, *, version=1, numbers=b"\x00" * 64):
    body = text.encode()
    size = struct.pack("<H" if version == 1 else "<I", len(body))
    return b"\x93NUMPY" + bytes([version, 0]) + size + body + numbers


def described(descr="'|u1'", order="False", shape="(4, 4, 4)", **more):
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n", **more)


def written(path, compression=zipfile.ZIP_STORED, **members):
    """Write the good arrays, with some members changed, in a zip file."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in GOOD.items():
            archive.writestr(f"{name}.npy", members.get(name, npy(array)))
    return path


def refusal(path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError) as caught:
        load_npz(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < len(str(path)) + 800
    return said


@pytest.mark.parametrize(
    ("member", "told"),
    [
        (described(shape="(1000000000000,)"), "its header says uint8 [1000000000000], and 64 bytes follow"),
        (described(shape="(99999999999, 99999999999, 99999999999)"), "and 64 bytes follow"),
        (described(shape=f"({'9' * 4000},)"), "its header says uint8 [9999"),
        (described(shape=f"({'9' * 5000},)"), "cannot be read"),
        (described(shape="(-64, -1)"), "and 64 bytes follow"),
        (described(shape="(4.0,)"), "cannot be read"),
        (described(shape="(4, 4)"), "and 64 bytes follow"),
        (described(shape="()"), "and 64 bytes follow"),
        (described(shape="(0, 4, 4)", numbers=b""), "found uint8 [0, 4, 4]"),
        (described(descr="'|O'", shape="(8,)"), "Object arrays cannot be loaded"),
        (described(descr="[('a', '|O'), ('b', '<f8')]", shape="(4,)"), "Object arrays cannot be loaded"),
        (described(descr="[('a', '<f8'), ('b', '<f8')]", shape="(4,)"), "found [('a', '<f8'), ('b', '<f8')] [4]"),
        (described(descr="('<f4', (1000000, 1000000))"), "cannot be read"),
        (described(descr="'<U1000000000'"), "cannot be read"),
        (described(descr="'|V0'"), "and 64 bytes follow"),
        (described(descr="'<M8[s]'", shape="(8,)"), "found datetime64[s] [8]"),
        (described(descr="'nothing'"), "cannot be read"),
        (described(descr="__import__('os').system('x')"), "cannot be read"),
        (described(descr="(" * 4000), "cannot be read"),
        (described(order="5"), "cannot be read"),
        (described(version=2, shape="(4, 4)"), "and 64 bytes follow"),
        (described(version=3), "format version 3.0"),
        (described(version=9), "cannot be read"),
        (header("{}\n"), "cannot be read"),
        (header("x" * 60_000), "cannot be read"),
        (header("'''\n"), "cannot be read"),
        (header("\x00\x00"), "cannot be read"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "cannot be read"),
        (b"\x93NUM", "cannot be read"),
        (b"", "cannot be read"),
        (b"\x80\x04cos\nsystem\n", "cannot be read"),
    ],
)
def test_a_member_that_lies(tmp_path, member, told):
    said = refusal(written(tmp_path / "d.npz", train_x=member))
    assert "d.npz: train_x: found " in said
    assert told in said


def test_the_first_dimension_may_be_the_innermost(tmp_path):
    pictures = np.asfortranarray(GOOD["train_x"])
    x, _ = load_npz(written(tmp_path / "d.npz", zipfile.ZIP_DEFLATED, train_x=npy(pictures))).samples(np.arange(12))
    np.testing.assert_array_equal(x.numpy(), GOOD["train_x"])


def patched(path, name, change):
    """Change a member's entry in the directory of a zip file and the one before its bytes."""
    content = bytearray(path.read_bytes())
    for mark, flags, method, size, start in ((b"PK\x03\x04", 6, 8, 22, 30), (b"PK\x01\x02", 8, 10, 24, 46)):
        at = content.find(mark)
        while content[at + start : at + start + len(name)] != name.encode():
            at = content.index(mark, at + 1)
        change(content, at, {"flags": flags, "method": method, "size": size})
    path.write_bytes(content)
    return path


def test_a_size_far_above_the_file(tmp_path):
    path = written(tmp_path / "d.npz")

    def claim(content, at, where):
        content[at + where["size"] : at + where["size"] + 4] = struct.pack("<I", 4_000_000_000)

    assert "cannot be read" in refusal(patched(path, "train_x.npy", claim))


def test_more_than_the_machine_has(tmp_path, monkeypatch):
    bomb = described(shape="(100000000,)", numbers=bytes(100_000_000))
    path = written(tmp_path / "d.npz", zipfile.ZIP_DEFLATED, test_x=bomb)
    assert path.stat().st_size < 200_000
    del bomb
    monkeypatch.setattr("scadles.data.npz._memory_bytes", lambda: 50_000_000)
    assert "its arrays are said to take 100,000" in refusal(path).replace("100,001", "100,000")


def test_an_encrypted_member_and_one_of_another_compression(tmp_path):
    def encrypt(content, at, where):
        content[at + where["flags"]] |= 1

    def compress(content, at, where):
        content[at + where["method"]] = 99

    assert "it is encrypted" in refusal(patched(written(tmp_path / "a.npz"), "train_y.npy", encrypt))
    assert "does not write" in refusal(patched(written(tmp_path / "b.npz"), "train_y.npy", compress))
    assert "does not write" in refusal(written(tmp_path / "c.npz", zipfile.ZIP_BZIP2))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names(tmp_path):
    path = written(tmp_path / "d.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../../etc/passwd", b"x")
        archive.writestr("/train_x.npy", b"x")
    assert load_npz(path).train_size == 12
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_x.npy", npy(GOOD["test_x"]))
    assert "train_x: found 2 arrays of this name, expected one" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(2000):
            archive.writestr(f"../{number}{'x' * 1000}.npy", b"")
    assert "and 1,992 more" in refusal(path)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, told in {tmp_path / "pipe": "a named pipe", "/dev/zero": "a device", tmp_path: "a folder"}.items():
        with pytest.raises(DataError, match=f"cannot read .*: {told}, not a file"):
            load_npz(type(tmp_path)(path))


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.binary(max_size=8)), min_size=1, max_size=4),
    st.booleans(),
)
def test_changed_bytes_are_read_or_refused(tmp_path_factory, changes, packed):
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    content = written(path, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED).read_bytes()
    for place, cut, piece in changes:
        at = int(place * len(content))
        content = content[:at] + piece + content[at + cut :]
    path.write_bytes(content)
    with suppress(DataError):
        load_npz(path)


CHARACTERS = st.text(alphabet="{}()[]'\",:<|=fiubUOVM8421-\\\x00 \n", max_size=6)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 6), CHARACTERS), min_size=1, max_size=4))
def test_changed_headers_are_read_or_refused(tmp_path_factory, changes):
    text = "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4, 4), }\n"
    for place, cut, piece in changes:
        at = int(place * len(text))
        text = text[:at] + piece + text[at + cut :]
    with suppress(DataError):
        load_npz(written(tmp_path_factory.getbasetemp() / "changed.npz", train_x=header(text)))
