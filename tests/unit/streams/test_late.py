"""Targets that come later than their samples: each sample is settled once, whatever happens in between."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.clock import VirtualClock
from scadles.config import CodecConfig, load_config
from scadles.device.buffer import Buffer, Persistence
from scadles.device.intake import Intake
from scadles.errors import ConfigError
from scadles.records import Records
from scadles.streams import Inspector, RateMeter, Source, make_codec
from scadles.streams.late import KeyedCodec, LateSource, TargetCodec, delays
from scadles.streams.late.ids import as_bytes, as_rows
from scadles.targets import TargetType

WAIT_S = 5.0
CLASSES = 10
BAD = 99


class Topic(Source):
    """A topic: what has been written to it stays, and is read from any offset on."""

    def __init__(self, rows):
        self.rows = rows
        self.written = 0
        self._position = self.committed = 0

    def open(self, position, mark=None):
        assert position >= self.committed, "forgotten already"
        self._position = position

    def rewind(self, position, mark=None):
        self.open(position)
        return True

    def poll(self, max_records, timeout_s):
        offsets = np.arange(self._position, min(self.written, self._position + max_records))
        self._position += len(offsets)
        x, y = self.rows(offsets)
        return Records(offsets, np.zeros(len(offsets)), x, y)

    def skip(self, keep):
        raise AssertionError("samples must be looked at before they are passed over")

    def lag(self):
        return self.written - self._position

    @property
    def position(self):
        return self._position

    def commit(self, position):
        assert position >= self.committed
        self.committed = position

    def close(self):
        pass


def samples_topic():
    return Topic(lambda offsets: (torch.from_numpy(offsets).float()[:, None], as_rows([b"%d" % o for o in offsets])))


def targets_topic(targets):
    def rows(offsets):
        some = [targets[offset] for offset in offsets]
        return as_rows([b"%d" % one for one, _ in some]), torch.tensor([y for _, y in some], dtype=torch.int64)

    return Topic(rows)


def joined(samples, targets, clock, capacity=1000, **more):
    return LateSource(samples, targets, TargetType.label(CLASSES), clock, WAIT_S, capacity, **more)


class Life:
    """A device that reads the two topics; what it has counted is taken back to its checkpoint by a crash."""

    def __init__(self, samples, targets, clock, capacity):
        self.samples, self.targets, self.clock, self.capacity = samples, targets, clock, capacity
        self.intake = self.trained = None
        self.checkpoint, self.kept = None, []
        self.start()

    def start(self):
        source = joined(self.samples, self.targets, self.clock, self.capacity)
        inspector = Inspector((1,), torch.float32, CLASSES)
        self.intake = Intake(source, inspector, Buffer(40), Persistence(), RateMeter(), self.clock)
        self.intake.open(self.checkpoint)
        self.intake.start()
        self.trained = list(self.kept)

    def step(self, count):
        self.intake.pull()
        taken = self.intake.take(count)
        if len(taken):
            self.trained += [(int(x), int(y)) for x, y in zip(taken.x, taken.y, strict=True)]
        self.intake.settle(trained=True)

    def save(self, _=0):
        state = self.intake.state()
        self.checkpoint = type(state)(**json.loads(json.dumps(vars(state))))
        self.kept = list(self.trained)
        self.intake.source.commit(state.position)

    def crash(self, _):
        self.start()

    def back(self, _):
        self.intake.go_back(self.checkpoint)
        self.trained = list(self.kept)

    def check(self):
        ledger = self.intake.describe()
        fates = ("trained", "dropped", "held", "rejected", "tested", "unlabelled")
        assert ledger["received"] == sum(ledger[fate] for fate in fates)
        assert ledger["trained"] == len(self.trained)
        assert len(set(self.trained)) == len(self.trained)
        return ledger


@st.composite
def labelled(draw):
    """How many samples there are, and targets in any order: of some of them, some twice, unknown or no labels."""
    count = draw(st.integers(1, 60))
    ids = draw(st.lists(st.integers(0, count + 5), max_size=90))
    return count, [(one, BAD if draw(st.integers(0, 9)) == 0 else one % CLASSES) for one in ids]


COUNTS = st.integers(1, 15)
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["samples", "targets", "time", "step", "step", "save", "crash", "back"]), st.integers(1, 15)
    ),
    max_size=60,
)


@given(world=labelled(), actions=ACTIONS, patient=st.booleans(), capacity=st.sampled_from([6, 1000]))
def test_each_sample_is_settled_once(world, actions, patient, capacity):
    count, targets = world
    samples, clock = samples_topic(), VirtualClock()
    topic = targets_topic(targets)
    life = Life(samples, topic, clock, capacity)
    life.save()
    for action, number in actions:
        if action == "samples":
            samples.written = min(count, samples.written + number)
        elif action == "targets":
            topic.written = min(len(targets), topic.written + number)
        elif action == "time":
            clock.sleep(0 if patient else number / 2)
        else:
            getattr(life, action)(number)
        life.check()
    samples.written, topic.written = count, len(targets)
    for _ in range(count + 1):
        for _ in range(4):
            life.step(10)
        clock.sleep(WAIT_S + 1)
    ledger = life.check()
    assert ledger["received"] == count == life.intake.source.position
    assert ledger["held"] == 0
    assert ledger["trained"] + ledger["unlabelled"] == count
    assert all(y == x % CLASSES for x, y in life.trained)
    if patient and capacity > count:
        good = {one for one, y in targets if y != BAD and one < count}
        assert {x for x, _ in life.trained} == good


def test_strays_are_counted_with_reasons():
    clock = VirtualClock()
    samples, topic = samples_topic(), targets_topic([(0, 0), (0, 0), (77, 7), (1, BAD), (2, 2), (2, 2)])
    source = joined(samples, topic, clock)
    source.open(0)
    samples.written = 3
    source.poll(10, 0.0)
    topic.written = 4
    assert source.poll(10, 0.0).offsets.tolist() == [0]
    assert source.waiting == 2
    clock.sleep(WAIT_S + 0.1)
    assert source.poll(10, 0.0).unlabelled == (1, 2)
    topic.written = 6
    source.lag()
    assert dict(source.strays_since_last_time()) == {
        "a target for a sample that had one before": 1,
        "label 99, expected 0 to 9": 1,
        "a target for an unknown id": 1,
        "a target for a sample that was given up": 2,
    }
    assert source.stray_targets == 5
    assert source.strays_since_last_time() == []


def test_a_target_may_come_first():
    samples, topic = samples_topic(), targets_topic([(0, 0)])
    source = joined(samples, topic, VirtualClock())
    source.open(0)
    topic.written = 1
    assert source.lag() == 0
    samples.written = 1
    assert source.poll(1, 0.0).y.tolist() == [0]


@pytest.mark.parametrize("truncates", [False, True])
def test_memory_is_bounded(truncates):
    samples = samples_topic()
    source = joined(samples, targets_topic([]), VirtualClock(), capacity=8, truncates=truncates)
    source.open(0)
    samples.written = 100
    for _ in range(100):
        source.lag()
    assert len(source._join.waiting) == 8
    assert source.lag() == (92 if truncates else 0)  # given up, or left in the topic
    assert source.skip(0) == source.position


def test_two_samples_of_one_id():
    rows = Topic(lambda offsets: (torch.from_numpy(offsets).float()[:, None], as_rows([b"same" for _ in offsets])))
    source = joined(rows, targets_topic([]), VirtualClock())
    source.open(0)
    rows.written = 2
    assert [reason for _, reason in source.poll(5, 0.0).rejected] == ["another sample has the same id"]


class TestMessages:
    sample = KeyedCodec(make_codec(CodecConfig(), (2,), torch.float32, target=TargetType.none()))

    def test_of_samples(self):
        key, value = self.sample.encode(torch.tensor([1.0, 2.0]), 17)
        assert key == b"17"
        decoded = self.sample.decode([value, value, value[:3], value], [key, None, b"a", b"x" * 64])
        assert (decoded.kept.tolist(), as_bytes(decoded.y)) == ([0], [b"17"])
        assert [place for place, _ in decoded.rejected] == [1, 2, 3]

    def test_of_samples_in_json(self):
        codec = KeyedCodec(make_codec(CodecConfig(format="json"), (2,), torch.float32, target=TargetType.none()))
        decoded = codec.decode([b'{"id": "cam/7", "x": [1, 2]}', b'{"id": 3, "x": [1, 2]}'], [None, None])
        assert as_bytes(decoded.y) == [b"cam/7", b"3"]

    @pytest.mark.parametrize(
        ("target", "value", "expected"),
        [
            (TargetType.label(3), b"2", [2]),
            (TargetType.label(3), b'{"y": 1}', [1]),
            (TargetType.numbers(()), b"2", [2.0]),
            (TargetType.numbers((2,)), b"[2, 0.5]", [[2.0, 0.5]]),
            (TargetType((2,), torch.uint8, 2), b"[0, 1]", [[0, 1]]),
        ],
    )
    def test_of_targets(self, target, value, expected):
        codec = TargetCodec(target, 100)
        decoded = codec.decode([value], [b"a"])
        assert decoded.y.tolist() == expected
        y = decoded.y[0] if not target.is_label else int(decoded.y[0])
        key, written = codec.encode(torch.tensor(5), y)
        assert (key, codec.decode([written], [key]).y.tolist()) == (b"5", expected)

    def test_of_targets_of_several_parts(self):
        target = TargetType.of_parts({"kind": TargetType.label(3), "box": TargetType.numbers((2,))})
        codec = TargetCodec(target, 100)
        said = b'{"y": {"box": [2, 0.5], "kind": 1}}'
        decoded = codec.decode([said, b'{"y": {"kind": 1}}', b'{"y": {"box": [1, "a"], "kind": 1}}'], [b"a"] * 3)
        assert [(place, "part" in reason) for place, reason in decoded.rejected] == [(1, True), (2, True)]
        parts = target.unpack(decoded.y)
        assert (parts["kind"].tolist(), parts["box"].tolist()) == ([1], [[2.0, 0.5]])
        key, written = codec.encode(torch.tensor(5), decoded.y[0])
        assert torch.equal(codec.decode([written], [key]).y, decoded.y)

    @pytest.mark.parametrize("value", [None, b"", b"{}", b"[1", b'"one"', b"[1, 2, 3]", b"9" * 200, b"[[", b"\xff"])
    def test_of_targets_that_are_none(self, value):
        decoded = TargetCodec(TargetType.numbers((2,)), 100).decode([value], [b"a"])
        assert (len(decoded.kept), len(decoded.rejected)) == (0, 1)

    @given(value=st.binary(max_size=60), key=st.none() | st.binary(max_size=70))
    def test_whatever_bytes_they_are(self, value, key):
        for target in (TargetType.label(3), TargetType.numbers(()), TargetType((2,), torch.uint8, 2)):
            decoded = TargetCodec(target, 100).decode([value], [key])
            assert len(decoded.kept) + len(decoded.rejected) == 1


def test_delays_are_functions_of_the_offset():
    whole = delays(np.arange(1000), 4.0, 1, 2)
    assert whole.min() >= 0
    assert whole.max() < 4
    assert whole.mean() == pytest.approx(2, abs=0.2)
    assert delays(np.arange(250, 270), 4.0, 1, 2).tolist() == whole[250:270].tolist()
    assert delays(np.arange(5), 4.0, 1, 3).tolist() != whole[:5].tolist()


@pytest.mark.parametrize(
    ("url", "labels", "said"),
    [
        ("replay://", "kafka://host/topic", "of one kind"),
        ("kafka://host/topic", "replay://", "of one kind"),
        ("python://sensors:readings", "kafka://host/topic", "leave stream.labels out"),
        ("kafka://host/topic", "python://sensors:labels", "leave stream.labels out"),
        ("kafka://host/topic", "kafka://host/labels?sasl.password=sesame", "written into run folders"),
    ],
)
def test_settings_that_cannot_be(url, labels, said):
    with pytest.raises(ConfigError, match=said):
        load_config({"steps": 1, "stream": {"url": url, "labels": {"url": labels}}})


def test_targets_wait_for_samples_that_are_not_read_yet():
    """A device that was away for long finds more of both than it can hold, and reads samples as fast as it trains."""
    count, clock = 500, VirtualClock()
    samples, topic = samples_topic(), targets_topic([(one, one % CLASSES) for one in range(count)])
    source = joined(samples, topic, clock, capacity=20)
    source.open(0)
    samples.written = topic.written = count
    labelled = 0
    for _ in range(count):
        labelled += len(source.poll(5, 0.0))
        clock.sleep(WAIT_S / 2)
    assert (labelled, source.stray_targets) == (count, 0)
