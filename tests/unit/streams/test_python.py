import itertools
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from scadles.clock import VirtualClock, wall_seconds
from scadles.errors import ConfigError, SourceError
from scadles.layout import Layout, Part
from scadles.streams import Records, open_source_url
from scadles.streams.python import GIVEN
from scadles.targets import TargetType
from scadles.testing import SOURCE_CHECKS

RECORDS = 60
PATIENCE_S = 20.0


def numbered(start, device=0):
    for number in range(start, RECORDS):
        yield torch.tensor([float(number), device]), number % 3


def from_now_on():
    return numbered(0)


def source_of(given, **more):
    more = {"clock": VirtualClock(), "target": TargetType.label(3)} | more
    return open_source_url(GIVEN, given=given, **more)


class OfTheCheck:
    """A source whose records have all arrived once it is open; they come while its clock stands still."""

    def __init__(self, **more):
        self._source = source_of(numbered, **more)

    def open(self, position, mark=None):
        self._source.open(position, mark)
        self._wait()

    def rewind(self, position, mark=None):
        goes_back = self._source.rewind(position, mark)
        self._wait()
        return goes_back

    def _wait(self):
        until(lambda: self._source.lag() == RECORDS - self._source.position)

    def __getattr__(self, name):
        return getattr(self._source, name)


def until(true):
    deadline_s = wall_seconds() + PATIENCE_S
    while not true():
        assert wall_seconds() < deadline_s


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("truncates", [False, True], ids=["persistence", "truncation"])
def test_what_can_go_back_keeps_the_contract(check, truncates):
    check(lambda _: OfTheCheck(truncates=truncates))


@pytest.fixture
def opened():
    """Open a source of something, closed in the end: ``opened(given, position, mark, **more)``."""
    sources = []

    def open_(given, position=0, mark=None, **more):
        sources.append(source_of(given, **more))
        sources[-1].open(position, mark)
        return sources[-1]

    yield open_
    for source in sources:
        source.close()


def poll_all(source, count=RECORDS):
    taken = []
    while sum(map(len, taken)) < count:
        taken.append(source.poll(count, PATIENCE_S))
    return Records.concatenate(taken)


def test_a_callable_by_name_is_given_what_it_takes(tmp_path, monkeypatch):
    (tmp_path / "at_the_door.py").write_text(
        "def frames(device, start, colour='grey', every='1'):\n"
        "    for k in range(start, 5):\n"
        "        yield [float(k), device, len(colour), int(every)], 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    more = {"clock": VirtualClock(), "target": TargetType.label(2), "device": 7}
    source = open_source_url("python://at_the_door:frames?every=4", **more)
    source.open(2)
    assert source.poll(3, PATIENCE_S).x.tolist() == [[2, 7, 4, 4], [3, 7, 4, 4], [4, 7, 4, 4]]
    source.close()
    with pytest.raises(ConfigError, match="unknown parameter 'evry'; at_the_door:frames takes colour, every"):
        open_source_url("python://at_the_door:frames?evry=4", **more)
    with pytest.raises(ConfigError, match="unknown parameter 'start'"):
        open_source_url("python://at_the_door:frames?start=4", **more)


@pytest.mark.parametrize("url", ["python://", "python://camera", "python://a:b/c"])
def test_an_address_that_names_nothing_says_how(url):
    with pytest.raises(ConfigError, match=r"python://MODULE:CALLABLE, or give scadles\.join"):
        open_source_url(url, clock=VirtualClock())


def test_iterables_of_every_kind(opened):
    class Sensor(IterableDataset):
        def __iter__(self):
            return from_now_on()

    for given in (Sensor(), Sensor, from_now_on, from_now_on(), list(from_now_on())):
        records = poll_all(opened(given))
        assert records.x[:, 0].tolist() == records.offsets.tolist() == list(range(RECORDS))
        assert records.y.tolist() == [number % 3 for number in range(RECORDS)]


def test_memory_that_is_used_again_is_copied(opened):
    frame = np.zeros(3, dtype=np.uint8)

    def camera():
        for i in range(5):
            frame[:] = i
            yield frame, i % 3

    assert poll_all(opened(camera), 5).x[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_samples_alone_where_nothing_is_to_be_told(opened):
    samples = [torch.ones(2), (np.zeros(2), "no matter"), [3.0, 4.0]]
    records = poll_all(opened(samples, target=TargetType.none()), 3)
    assert [x.tolist() for x in records.x] == [[1, 1], [0, 0], [3, 4]]
    assert records.y.shape == (3, 0)


def test_parts_by_name_and_in_order(opened):
    layout = Layout([Part("picture", (2, 2), torch.uint8), Part("speed", (), torch.float32)])
    target = TargetType.of_parts({"kind": TargetType.label(3), "box": TargetType.numbers((2,))})
    picture, box = np.ones((2, 2), dtype=np.uint8), [0.5, 1.5]
    records = [
        ({"picture": picture, "speed": 2.0}, {"kind": np.int64(2), "box": box}),
        ({"picture": picture}, {"kind": 2, "box": box}),
        ({"picture": picture, "speed": 2.0}, {"kind": 2, "box": [1.0]}),
    ]
    source = opened(records, target=target, layout=layout)
    until(lambda: source.lag() == 3)
    found = source.poll(3, 0.0)
    assert layout.unpack(found.x)["speed"].tolist() == [2.0]
    assert target.unpack(found.y)["box"].tolist() == [box]
    said = ["part speed is missing", "part box: target of shape [1], expected [2]"]
    assert [one.reason for one in found.rejected] == said
    both = Layout([Part("0", (2,), torch.float32), Part("1", (), torch.float32)])
    alone = opened([(torch.ones(2), 3.0)], target=TargetType.none(), layout=both)
    assert both.unpack(poll_all(alone, 1).x)[1].tolist() == [3.0]


def test_whatever_is_yielded_is_counted(opened):
    class Hostile:
        def __array__(self, *_):
            raise RuntimeError("secret")

    garbage = [None, "noise", torch.ones(2), (Hostile(), 1), (["a"], 1), ([1.0], "one"), ([1.0], 1.5), (object(), 0)]
    source = opened([*garbage, (torch.ones(2), 2), ([1.0], torch.tensor(1))])
    reasons, good = [], []
    while len(reasons) + len(good) < 10:
        records = source.poll(10, PATIENCE_S)
        reasons += records.rejected
        good += zip(records.offsets.tolist(), records.y.tolist(), strict=True)
    assert good == [(8, 2), (9, 1)]
    assert [one.offset for one in reasons] == list(range(8))
    assert not any("secret" in one.reason for one in reasons)
    assert source.position == 10


def test_what_it_had_brought_comes_before_what_it_raised(opened):
    def broken():
        yield from itertools.islice(from_now_on(), 4)
        raise OSError("the cable is out")

    source = opened(broken)
    assert len(poll_all(source, 4)) == 4
    with pytest.raises(SourceError, match=r"broken off after 4 records: OSError: the cable is out \(.*, line \d+\)"):
        source.poll(1, PATIENCE_S)


def test_what_cannot_begin_is_a_wrong_setting():
    def no_camera():
        raise RuntimeError("no camera 3")

    for given, said in ((no_camera, "RuntimeError: no camera 3"), (lambda: 5, "int cannot be iterated over")):
        source = source_of(given)
        with pytest.raises(ConfigError, match=said):
            source.open(0)
        source.close()
    with pytest.raises(ConfigError, match="int: nothing to iterate over"):
        source_of(5)
    with pytest.raises(ConfigError, match=r"needs width, which .*python://MODULE:CALLABLE\?NAME=VALUE; or"):
        source_of(lambda width: []).open(0)


def test_the_end_is_silence_or_the_end(opened):
    silent, ended = opened(from_now_on), opened(from_now_on, stop_at_end=True)
    for source in (silent, ended):
        poll_all(source)
    until(lambda: ended.ended)
    assert len(ended.poll(1, 1000.0)) == 0  # at once
    assert not silent.ended
    until(lambda: len(silent.poll(1, 0.0)) or any("has ended after 60 records" in said for said in silent.notices()))


def test_one_that_blocks_for_ever_is_left_behind(opened):
    never, begun = threading.Event(), threading.Event()

    def blocked(start):
        yield [1.0], start
        begun.set()
        never.wait()

    source = opened(blocked)
    assert len(poll_all(source, 1)) == 1
    assert begun.wait(PATIENCE_S)
    before_s = wall_seconds()
    source.close()
    assert wall_seconds() - before_s < PATIENCE_S
    never.set()


def test_a_generator_is_closed_with_its_stream(opened):
    released = threading.Event()

    def camera():
        try:
            while True:
                yield [1.0], 0
        finally:
            released.set()

    source = opened(camera, capacity=4)
    assert len(poll_all(source, 4)) >= 4
    source.close()
    assert released.wait(PATIENCE_S)


def test_an_iterator_waits_for_room(opened):
    yielded = []

    def counting(start):
        for one in numbered(start):
            yielded.append(one)
            yield one

    source = opened(counting, capacity=5)
    until(lambda: source.lag() == 5 and len(yielded) == 6)
    assert poll_all(source).offsets.tolist() == list(range(RECORDS))


def test_with_truncation_the_oldest_make_room_and_are_counted(opened):
    source = opened(from_now_on, capacity=5, truncates=True)
    until(lambda: source.lag() == RECORDS)
    records = source.poll(RECORDS, 0.0)
    assert (records.lost, records.offsets.tolist()) == (RECORDS - 5, list(range(RECORDS - 5, RECORDS)))


def test_what_records_pass_over_is_lost(opened):
    def part(*offsets):
        x = torch.tensor(offsets, dtype=torch.float32)[:, None]
        return Records(np.array(offsets), np.zeros(len(offsets)), x, torch.tensor(offsets) % 3)

    source = opened([part(2, 3), part(4, 9)])
    until(lambda: source.lag() == 10)
    found = [source.poll(10, 0.0) for _ in range(2)]
    assert [(one.lost, one.offsets.tolist()) for one in found] == [(2, [2, 3, 4]), (4, [9])]
    backwards = opened([part(5), part(1)])
    assert len(poll_all(backwards, 1)) == 1
    with pytest.raises(SourceError, match="record 1 after record 5: offsets must ascend"):
        backwards.poll(1, PATIENCE_S)


def test_what_cannot_go_back_counts_what_it_knows_to_be_lost(opened):
    first = opened(from_now_on)
    taken = first.poll(10, PATIENCE_S)
    until(lambda: first.lag() == RECORDS - 10)
    mark = first.mark(8)
    assert not first.rewind(8, mark)
    again = opened(from_now_on, 8, mark)
    records = poll_all(again, 10)
    assert taken.offsets.tolist() == list(range(10))
    assert again.notices()[0].startswith("the stream that was given cannot go back, as it takes no start: 52 records")
    assert records.first_offset == RECORDS
    assert records.x[0, 0] == 0  # whatever it brings now


def test_the_known_loss_is_told_also_where_nothing_comes_any_more(opened):
    source = opened(list, 8, {"arrived": 20})
    records = source.poll(10, 0.0)
    assert (records.lost, len(records), source.position, source.lag()) == (12, 0, 20, 0)
