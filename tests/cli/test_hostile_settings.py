"""Files of settings that somebody made to do harm: one sentence, exit code 2, in no time."""

import os
import resource
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.cli.sweep import parse_over
from scadles.config import load_config
from scadles.errors import ConfigError

LAUGHS = "a: &a [lol, lol]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghi"))
HOSTILE = {
    "a key twice": ("steps: 5\nsteps: 7\n", "c.yaml, line 2: steps is given twice"),
    "a key twice, inside": ("steps: 5\nbatch:\n  size: 5\n  min: 1\n  size: 6\n", "line 5: size is given twice"),
    "a key twice, as escapes": ('"\\e[2J": 5\n"\\e[2J": 7\n', "line 2: '\\x1b[2J' is given twice"),
    "a key twice, long": ("? " + "k" * 999 + "\n: 1\n? " + "k" * 999 + "\n: 1\n", "(1,001 characters) is given twice"),
    "a date": ("steps: 2026-01-01\n", "steps = '2026-01-01': input should be a valid integer"),
    "no date": ("steps: 2001-99-99\n", "steps = '2001-99-99': input should be a valid integer"),
    "a moment": (
        "duration_s: 2026-01-01 10:00:00Z\n",
        "duration_s = '2026-01-01 10:00:00Z': input should be a valid n",
    ),
    "levels": ("steps: " + "[" * 100_000, "line 1: more than 32 levels"),
    "levels of blocks": ("\n".join(" " * n + "a:" for n in range(200)), "more than 32 levels"),
    "levels of keys": ("? " * 5000 + "a", "more than 32 levels"),
    "laughs": (LAUGHS + "steps: *i\n", "line 2: aliases (*name) are not read"),
    "itself": ("steps: &a [*a]\n", "line 1: aliases (*name) are not read"),
    "merged keys": ("batch: {<<: {size: 5}}\n", "line 1: << is not read"),
    "a huge integer": ("steps: " + "9" * 5000, "steps = '9999"),
    "a huge hexadecimal one": ("steps: 0x" + "f" * 100_000, "steps = '0xff"),
    "a huge sexagesimal one": ("steps: 1" + ":1" * 100_000, "steps = '1:1:"),
    "a huge fraction": ("clock: {speed: 1" + ":1" * 100_000 + ".5}", "clock.speed = '1:1:"),
    "100 digits": ("steps: " + "9" * 100, "a number is at most 1,000,000,000,000,000"),
    "1e400": ("duration_s: 1e400", "duration_s = '1e400': input should be a finite number"),
    "1.0e+400": ("duration_s: 1.0e+400", "duration_s = inf: input should be a finite number"),
    ".inf": ("steps: .inf", "steps = inf"),
    ".nan": ("optimizer: {lr: .nan}", "optimizer.lr = nan: input should be a finite number"),
    "a wait beyond a timer": ("steps: 1\nfabric: {deadline_s: 1.0e+12}", "fabric.deadline_s = 1000000000000.0"),
    "a huge float": ("steps: 1\nduration_s: 1.0e+300", "duration_s: 1e+300 is too large"),
    "devices": ("steps: 1\ndevices: 1000000000", "devices = 1000000000: input should be less than or equal to 1000000"),
    "pictures": ("steps: 1\ndata: {shape: [3, 1000000, 1000000]}", "bytes, at most 10,000,000,000 are made"),
    "a link": ("steps: 1\ncost: {link: {up_bps: 1.0e-300}}", "up_bps 1e-300 is less than 1 bit a second"),
    "a rate": ("steps: 1\nstream: {rates: 1.0e+9}", "stream.rates"),
    "a seed": ("steps: 1\nseed: 9223372036854775808", "seed: 9223372036854775808 is too large"),
    "a key of yes": ("on: 5\n", "on: unknown setting"),
    "a key of nothing": ("steps: 5\n? \n: 3\n", "a key must be a name or a number, not ''"),
    "a list as key": ("? [1, 2]\n: 3\n", "a key must be a name or a number, not a list"),
    "a mapping as key": ("? {a: 2}\n: 3\n", "a key must be a name or a number, not a mapping"),
    "a number as key": ("3: 5\nsteps: 1", "keys should be strings"),
    "an object": ("steps: !!python/object/apply:os.system [ls]", "the tag 'tag:yaml.org,2002:python/object/apply:os."),
    "bytes": ("steps: !!binary aGFsbG8=", "the tag 'tag:yaml.org,2002:binary' is not read"),
    "a tag that lies": ("steps: !!int five", "'five' is not what its tag says"),
    "a tag of truth that lies": ("steps: !!bool five", "'five' is not what its tag says"),
    "a list that is none": ("steps: !!seq {a: 1}", "is not YAML"),
    "a mapping that is none": ("!!map [1, 2]", "what is tagged as a mapping is none"),
    "a number that is a list": ("steps: !!int [" + "1," * 200 + "]", "is not YAML"),
    "tabs": ("batch:\n\tsize: 5\n", "c.yaml is not YAML"),
    "two documents": ("steps: 5\n---\nsteps: 6\n", "c.yaml is not YAML"),
    "a value of nothing": ("steps: =", "the tag 'tag:yaml.org,2002:value' is not read"),
    "NUL": ("steps: 5\x00\n", "c.yaml is not YAML"),
    "many unknown settings": ("\n".join(f"k{n}: 1" for n in range(5000)), "and more of the kind"),
    "many wrong values": ("steps: 1\ndevices: 3\nstream: {rates: [" + "x," * 3000 + "]}", "and more of the kind"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return tmp_path


@pytest.fixture
def refused(command):
    """Give ``scadles data FILE`` a file, or other arguments; return what it says, which is one error and no more."""

    def run(*arguments):
        code, _, err = command("data", *arguments)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("error: ") == 1
        assert "Traceback" not in err
        assert max(map(len, err.splitlines())) < 600
        assert len(err.splitlines()) <= 22
        return err

    return run


@pytest.mark.parametrize(("text", "told"), HOSTILE.values(), ids=HOSTILE)
def test_settings_that_do_harm(folder, refused, text, told):
    (folder / "c.yaml").write_text(text)
    said = refused("c.yaml")
    assert told in said
    if "kind" not in told:
        assert len(said.splitlines()) == 1


def test_a_file_of_other_bytes(folder, refused):
    (folder / "c.yaml").write_bytes(b"steps: \xff\xfe")
    assert "c.yaml is not YAML: not UTF-8 text (byte 7)" in refused("c.yaml")


def test_more_values_than_settings_have(folder, refused, monkeypatch):
    monkeypatch.setattr("scadles.config.bounded_yaml._MOST_NODES", 3000)
    (folder / "c.yaml").write_text("steps: [" + "[]," * 3000 + "]")
    assert "line 1: more than 3,000 keys and values" in refused("c.yaml")


def test_what_is_no_file(folder, refused):
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "nowhere").symlink_to(folder / "missing")
    for path, told in {
        folder: "a folder, not a file",
        "pipe": "a named pipe, not a file",
        "/dev/zero": "a device, not a file",
        "loop": "Too many levels of symbolic links",
        "nowhere": "No such file or directory",
        "x" * 300: "File name too long",
    }.items():
        assert told in refused(path)
    with pytest.raises(ConfigError, match="no file has such a name"):
        load_config("a\x00b")


def test_a_file_without_end_takes_no_memory(folder, refused):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (folder / "c.yaml").open("wb") as file:
        file.truncate(10**11)
    assert "more than 4,000,000 bytes" in refused("c.yaml")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("steps=[" + "[" * 5000, "--set 'steps': more than 32 levels"),
        ("steps=2026-01-01", "steps = '2026-01-01': input should be a valid integer"),
        ("batch={size: 5, size: 6}", "--set 'batch': size is given twice"),
        (".".join(["batch"] * 3000) + "=5", "unknown setting"),
        ("steps=" + "9" * 5000, "steps = '9999"),
    ],
)
def test_an_override_that_does_harm(folder, refused, override, told):
    (folder / "c.yaml").write_text("steps: 1\n")
    assert told in refused("c.yaml", "--set", override)


def test_a_profile_that_does_harm(folder, refused):
    (folder / "c.yaml").write_text("steps: 1\ncost: {profile: p.yaml}\n")
    (folder / "p.yaml").write_text("compute: {step_s: 1, step_s: 2}\n")
    assert "p.yaml, line 1: step_s is given twice" in refused("c.yaml")
    (folder / "p.yaml").unlink()
    os.mkfifo(folder / "p.yaml")
    assert "cannot read the cost profile p.yaml: a named pipe, not a file" in refused("c.yaml")


def test_swept_values_that_do_harm():
    for text, told in {"batch={size: 1, size: 2}": "given twice", "steps=" + "[" * 99: "more than 32 levels"}.items():
        with pytest.raises(ConfigError, match=told):
            parse_over([text])


VALUES = [10**5000, -(10**5000), [[]] * 3, 1e308, float("inf"), "x" * 10**6, b"\xff", object()]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_of_python_that_do_harm(value):
    for tree in ({"steps": value}, {"steps": 1, "lr": {"milestones": value}}, {"steps": 1, "seed": value}):
        with pytest.raises(ConfigError) as caught:
            load_config(tree)
        assert len(str(caught.value)) < 600


def test_a_value_deeper_than_the_stack():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ConfigError, match="steps = a value that cannot be shown"):
        load_config({"steps": deep})


WHOLE = load_config(
    {"steps": 5, "devices": 3, "stream": {"rates": [5, 38.5, 12]}, "injection": {"refuse_labels": {1: [2]}}}
)
PIECES = st.sampled_from(
    [*"[]{}:,-?&*!|>'\"%@`#\n\t \x00\x1b\ufeff", "<<: ", "!!int ", "0x", "1e999", "9" * 99, ": ", "- "]
)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), PIECES), min_size=1, max_size=4))
def test_a_real_file_with_other_characters_is_read_or_refused(tmp_path_factory, changes):
    text = WHOLE.to_yaml()
    for place, cut, piece in changes:
        at = int(place * len(text))
        text = text[:at] + piece + text[at + cut :]
    file = tmp_path_factory.getbasetemp() / "changed.yaml"
    file.write_text(text)
    with suppress(ConfigError):
        load_config(file).to_yaml()


NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=5), st.none(), st.booleans())
TREES = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
PLACES = [(s, k) for s, part in WHOLE.model_dump().items() if isinstance(part, dict) for k in part]


@settings(max_examples=150)
@given(st.sampled_from(PLACES), TREES)
def test_any_value_in_any_place_is_read_or_refused(place, value):
    section, key = place
    with suppress(ConfigError):
        load_config(load_config({"steps": 1, section: {key: value}}))
