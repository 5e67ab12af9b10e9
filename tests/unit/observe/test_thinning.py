"""A file of events stays within its bound, says what was removed, and is read as if it were whole."""

import json
import os
import signal

import numpy as np
import pytest

from scadles.errors import RunError
from scadles.observe import (
    CheckpointWritten,
    Evaluation,
    EventLog,
    Finished,
    Header,
    InitialValues,
    Notice,
    Rejection,
    Resumed,
    RunFolder,
    Step,
    Thinned,
    compare,
    plot_run,
    plot_timeline,
    read_events,
    scan_events,
)
from scadles.observe.thinning import temporary_path, thin

MOST = 60_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events-0.jsonl"


@pytest.fixture
def log(path, make_header):
    with EventLog(path, make_header(), append=False, most_bytes=MOST) as log:
        yield log


def only(events, kind):
    return [event for event in events if isinstance(event, kind)]


def write(log, make_step, steps):
    for step in steps:
        log.write(make_step(step))


def assert_whole(path, last, *, trained=None):
    """Newest steps one after the other, old ones as the record says, and sums that come to what was written."""
    assert scan_events(path).gaps(0, last, "") == []
    events = read_events(path)
    [thinned] = only(events, Thinned)
    steps = [event.step for event in only(events, Step)]
    assert steps == [
        *range(thinned.every, thinned.step + 1, thinned.every),
        *range(thinned.step + 1, last + 1),
    ]
    assert thinned.removed["step"] == last - len(steps)
    if trained is not None:
        assert thinned.trained + sum(event.batch for event in only(events, Step)) == trained
    return thinned


def test_a_usual_run_is_not_thinned(log, path, make_step, make_header):
    for step in range(1, 90):
        log.write(make_step(step))
    assert path.stat().st_size < 2 * MOST / 3
    assert read_events(path) == [make_header(), *(make_step(step) for step in range(1, 90))]


@pytest.mark.parametrize("last", [200, 1000, 5000])
def test_the_size_is_bounded_and_nothing_else_is_lost(log, path, make_step, last):
    most = trained = 0
    for step in range(1, last + 1):
        event = make_step(step)
        trained += event.batch
        log.write(event)
        most = max(most, path.stat().st_size)
    assert most < 2 * MOST / 3 + 1000
    thinned = assert_whole(path, last, trained=trained)
    assert isinstance(read_events(path)[0], Header)
    assert thinned.step < last - 40
    assert thinned.every >= last / 200


def test_old_and_new_file_together_are_within_the_bound(log, path, make_step, monkeypatch):
    together = []

    def measured(descriptor):
        together.append(path.stat().st_size + temporary_path(path).stat().st_size)

    monkeypatch.setattr("scadles.observe.thinning.os.fsync", measured)
    monkeypatch.setattr("scadles.observe.thinning.sync", lambda _: None)
    for step in range(1, 1000):
        log.write(make_step(step))
    assert len(together) > 3
    assert max(together) < MOST


def test_tests_checkpoints_and_rejections_are_bounded_as_well(log, path, make_step):
    rejected = 0
    for step in range(1, 2000):
        log.write(make_step(step))
        log.write(Evaluation(step=step, time_s=step, accuracy=0.5, loss=1.0, samples_trained=3, per_label=(0.25,) * 30))
        log.write(CheckpointWritten(step=step, time_s=step, position=3, ledger={}, model_sha256=f"{step}"))
        for number in range(step % 3):
            log.write(Rejection(step=step, time_s=step, count=number + 2, reason=f"r{step % 40}", first_offset=1))
            rejected += number + 2
    assert path.stat().st_size < MOST
    thinned = assert_whole(path, 1999)
    events = read_events(path)
    assert len(only(events, Evaluation)) > 10 < len(only(events, CheckpointWritten))
    assert sum(event.count for event in only(events, Rejection)) + sum(thinned.rejected.values()) == rejected
    assert len(thinned.rejected) <= 17
    assert thinned.rejected["other reasons"] > 0
    assert scan_events(path).models[1999] == "1999"


def test_where_the_first_values_came_from_stays(log, path, make_step):
    event = InitialValues(step=0, time_s=0.0, path="model.safetensors", sha256="5" * 64, tensors=4)
    log.write(event)
    write(log, make_step, range(1, 1500))
    assert only(read_events(path), InitialValues) == [event]
    assert_whole(path, 1499)
    with EventLog(path, read_events(path)[0], append=True, most_bytes=MOST) as log:
        log.write(Resumed(step=0, time_s=0.0, position=0, started_at=""))
        log.write(event)
        write(log, make_step, range(1, 500))
    assert only(read_events(path), InitialValues) == [event]
    assert path.read_text().count("initial_values") == 1


def test_notices_of_one_step_are_bounded(log, path):
    for number in range(3000):
        log.write(Notice(step=5, time_s=number, message=f"again {number}"))
    assert path.stat().st_size < MOST
    [thinned] = only(read_events(path), Thinned)
    notices = only(read_events(path), Notice)
    assert thinned.removed == {"notice": 3000 - len(notices)}
    assert notices[-1].message == "again 2999"


def test_a_line_larger_than_the_bound_does_not_stop_the_run(log, path, make_step):
    log.write(Notice(step=0, time_s=0.0, message="x" * 2 * MOST))
    for step in range(1, 300):
        log.write(make_step(step))
    assert path.stat().st_size < MOST
    assert assert_whole(path, 299).removed["notice"] == 1


class TestGaps:
    def test_one_from_before_is_still_named(self, log, path, make_step):
        write(log, make_step, [*range(1, 11), *range(14, 700)])
        assert scan_events(path).gaps(0, 699, "") == [f"{path} lacks steps 11 to 13"]
        write(log, make_step, range(700, 1500))
        assert scan_events(path).gaps(0, 1499, "") == [f"{path} lacks steps 11 to 13"]

    def test_one_that_something_tears_afterwards_is_named(self, log, path, make_step):
        write(log, make_step, range(1, 1000))
        [thinned] = only(read_events(path), Thinned)
        lines = path.read_text().splitlines(keepends=True)
        gone = thinned.every * 3, thinned.step + 10
        path.write_text("".join(line for line in lines if json.loads(line)["step"] not in gone))
        assert scan_events(path).gaps(0, 999, "") == [f"{path} lacks steps {gone[0]}, {gone[1]}"]

    def test_many_are_told_as_one(self, log, path, make_step):
        write(log, make_step, range(2, 4000, 2))
        [thinned] = only(read_events(path), Thinned)
        first, together = thinned.missing[0]
        assert first == 1 < together
        assert len(thinned.missing) <= 500
        assert scan_events(path).gaps(0, 3998, "")[0].startswith(f"{path} lacks steps 1 to {together}, ")

    def test_the_end_of_a_run_that_wrote_too_little(self, log, path, make_step):
        write(log, make_step, range(1, 1000))
        assert scan_events(path).gaps(0, 1005, "") == [f"{path} lacks steps 1000 to 1005"]


class TestResumed:
    def go_on(self, path, make_header, make_step, begin, end):
        with EventLog(path, make_header(), append=True, most_bytes=MOST) as log:
            log.write(Resumed(step=begin, time_s=begin, position=0, started_at=""))
            for step in range(begin + 1, end + 1):
                log.write(make_step(step))

    def test_what_it_took_back_is_neither_kept_nor_counted(self, path, make_header, make_step):
        with EventLog(path, make_header(), append=False, most_bytes=MOST) as log:
            for step in range(1, 61):
                log.write(make_step(step))
        for begin, end in ((50, 90), (70, 400), (390, 460), (455, 1500), (1490, 1495)):
            self.go_on(path, make_header, make_step, begin, end)
        assert_whole(path, 1495, trained=sum(make_step(step).batch for step in range(1, 1496)))
        assert [event.step for event in only(read_events(path), Resumed)] == [50, 70, 390, 455, 1490]

    def test_one_that_goes_back_behind_what_was_thinned(self, path, make_header, make_step):
        with EventLog(path, make_header(), append=False, most_bytes=MOST) as log:
            for step in range(1, 401):
                log.write(make_step(step))
        [thinned] = only(read_events(path), Thinned)
        back = thinned.step - 21
        self.go_on(path, make_header, make_step, back, back + 30)
        assert scan_events(path).gaps(0, back + 30, "") == []
        [left] = only(read_events(path), Thinned)
        assert (left.step, left.every, left.trained, left.removed) == (back, thinned.every, None, {})
        self.go_on(path, make_header, make_step, back + 30, 2000)
        assert scan_events(path).gaps(0, 2000, "") == []
        [left] = only(read_events(path), Thinned)
        assert (left.trained, left.every > thinned.every) == (None, True)

    def test_from_the_beginning_nothing_is_left_of_it(self, path, make_header, make_step):
        with EventLog(path, make_header(), append=False, most_bytes=MOST) as log:
            for step in range(1, 401):
                log.write(make_step(step))
        self.go_on(path, make_header, make_step, 0, 40)
        assert scan_events(path).gaps(0, 40, "") == []
        [left] = only(read_events(path), Thinned)  # of what was void alone
        assert (left.every, left.trained, left.removed) == (1, 0, {})
        self.go_on(path, make_header, make_step, 40, 700)
        assert_whole(path, 700, trained=sum(make_step(step).batch for step in range(1, 701)))

    def test_a_file_of_an_earlier_version_is_thinned_with_the_first_event(self, path, make_header, make_step):
        with EventLog(path, make_header(), append=False) as log:
            for step in range(1, 1001):
                log.write(make_step(step))
        assert path.stat().st_size > 5 * MOST
        self.go_on(path, make_header, make_step, 1000, 1001)
        assert path.stat().st_size < MOST
        assert_whole(path, 1001)

    def test_any_order_of_steps_and_resumptions(self, path, make_header, make_step):
        rng = np.random.default_rng(0)
        last = 0
        for _ in range(30):
            begin = max(0, last - int(rng.integers(0, 30)))
            last = begin + int(rng.integers(1, 90))
            self.go_on(path, make_header, make_step, begin, last)
            assert path.stat().st_size < MOST
            assert scan_events(path).gaps(0, last, "") == []
            events = read_events(path)
            thinned = only(events, Thinned)
            kept = sum(event.batch for event in only(events, Step))
            if thinned and thinned[0].trained is not None:
                assert kept + thinned[0].trained == sum(make_step(step).batch for step in range(1, last + 1))
        assert last > 700
        assert thinned


class TestAway:
    """A device that takes no part for a while, in a file that is thinned before, meanwhile or afterwards."""

    def come_back(self, path, make_header, make_step, since, step, last):
        with EventLog(path, make_header(), append=True, most_bytes=MOST) as log:
            log.write(Resumed(step=step, time_s=step, position=0, started_at="", away_since=since))
            write(log, make_step, range(step + 1, last + 1))

    def begin(self, path, make_header, make_step, last):
        with EventLog(path, make_header(), append=False, most_bytes=MOST) as log:
            write(log, make_step, range(1, last + 1))

    def assert_accounts(self, path, make_step, taken):
        """The steps that are there and those that are counted come to the steps that were ``taken``, each once."""
        events = read_events(path)
        steps = [event.step for event in only(events, Step)]
        assert steps == sorted(set(steps) & set(taken))
        thinned = only(events, Thinned)[-1]
        assert thinned.removed["step"] + len(steps) == len(taken)
        assert thinned.trained + sum(event.batch for event in only(events, Step)) == sum(
            make_step(step).batch for step in taken
        )

    @pytest.mark.parametrize("since", [0, 37, 300])
    @pytest.mark.parametrize("last", [700, 3000])
    def test_what_it_wrote_after_it_left_is_not_counted(self, path, make_header, make_step, since, last):
        self.begin(path, make_header, make_step, since + 25)
        self.come_back(path, make_header, make_step, since, 400, last)
        assert scan_events(path).gaps(0, last, "") == []
        assert scan_events(path).away == [(since + 1, 400)]
        self.assert_accounts(path, make_step, [*range(1, since + 1), *range(401, last + 1)])

    def test_steps_that_are_really_missing_are_named(self, path, make_header, make_step):
        self.begin(path, make_header, make_step, 50)
        self.come_back(path, make_header, make_step, 50, 90, 120)
        with EventLog(path, make_header(), append=True, most_bytes=MOST) as log:
            write(log, make_step, range(124, 900))
        assert only(read_events(path), Thinned)
        assert scan_events(path).gaps(0, 905, "") == [f"{path} lacks steps 121 to 123, 900 to 905"]

    def test_one_that_ends_where_it_left_is_named(self, path, make_header, make_step):
        with EventLog(path, make_header(), append=False, most_bytes=MOST) as log:
            write(log, make_step, [*range(1, 41), *range(48, 60)])
        self.come_back(path, make_header, make_step, 45, 90, 900)
        assert only(read_events(path), Thinned)
        assert scan_events(path).gaps(0, 900, "") == [f"{path} lacks steps 41 to 45"]

    def test_a_moment_before_it_left_makes_its_absence_shorter(self, path, make_header, make_step):
        """All go back to a step at which it was away, or took part: what was said of later ones is void."""
        self.begin(path, make_header, make_step, 500)
        self.come_back(path, make_header, make_step, 450, 600, 640)
        self.come_back(path, make_header, make_step, 450, 560, 800)
        assert scan_events(path).away == [(451, 560)]
        assert scan_events(path).gaps(0, 800, "") == []
        TestResumed().go_on(path, make_header, make_step, 440, 900)
        assert scan_events(path).away == []
        assert scan_events(path).gaps(0, 900, "") == []

    def test_hundreds_of_absences(self, path, make_header, make_step, monkeypatch):
        monkeypatch.setitem(globals(), "MOST", 5 * MOST)
        self.begin(path, make_header, make_step, 10)
        taken = list(range(1, 11))
        for since in range(10, 5000, 10):
            if since % 20:
                self.come_back(path, make_header, make_step, since, since + 5, since + 10)
            else:
                TestResumed().go_on(path, make_header, make_step, since, since + 10)
            taken += range(since + (6 if since % 20 else 1), since + 11)
        assert scan_events(path).gaps(0, 5000, "") == []
        self.assert_accounts(path, make_step, taken)

    def test_any_order(self, path, make_header, make_step):
        rng = np.random.default_rng(1)
        last, taken = 0, []
        for _ in range(60):
            back = last - int(rng.integers(0, 60))
            since = max((at for at in taken if at <= back), default=0)
            step = since + int(rng.integers(0, 3)) * int(rng.integers(0, 50))
            last = step + int(rng.integers(1, 90))
            taken = [*(at for at in taken if at <= since), *range(step + 1, last + 1)]
            self.come_back(path, make_header, make_step, since, step, last)
            assert path.stat().st_size < MOST
            assert scan_events(path).gaps(0, last, "") == []
            events = read_events(path)
            steps = [event.step for event in only(events, Step)]
            assert steps == sorted(set(steps) & set(taken))
            # one step too many that is expected, or too few, is a gap that is not named or a false one
            scan = scan_events(path)
            assert {at for at in taken if at > scan.thinned_to or at % scan.every == 0} == set(steps)
            thinned = only(events, Thinned)
            if thinned and thinned[-1].trained is not None:
                assert thinned[-1].removed.get("step", 0) + len(steps) == len(taken)
        assert last > 900
        assert thinned


class TestCrash:
    @pytest.mark.parametrize("moment", ["fsync", "replace"])
    def test_while_the_new_file_is_written(self, path, make_header, make_step, moment):
        """A process that dies there leaves the old file; the next attempt goes on with it."""
        with EventLog(path, make_header(), append=False) as log:
            for step in range(1, 201):
                log.write(make_step(step))
        whole = path.read_bytes()
        child = os.fork()
        if child == 0:
            kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            if moment == "fsync":
                os.fsync = kill
            else:
                type(path).replace = kill
            thin(path, MOST)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert path.read_bytes() == whole
        assert temporary_path(path).exists()
        with EventLog(path, make_header(), append=True, most_bytes=MOST) as log:
            assert not temporary_path(path).exists()
            log.write(make_step(201))
        assert_whole(path, 201)

    def test_a_full_disk_leaves_the_file_as_it_was(self, path, make_header, make_step, monkeypatch):
        with EventLog(path, make_header(), append=False, most_bytes=MOST) as log:
            for step in range(1, 80):
                log.write(make_step(step))

            def full(_):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr("scadles.observe.thinning.os.fsync", full)
            with pytest.raises(RunError, match=r"cannot write events to .*: No space left"):
                write(log, make_step, range(80, 200))
        assert not temporary_path(path).exists()
        steps = [event.step for event in only(read_events(path), Step)]
        assert steps == list(range(1, steps[-1] + 1))
        assert steps[-1] > 80

    def test_a_deleted_file_does_not_come_back(self, log, path, make_step):
        log.write(make_step(1))
        path.unlink()
        with pytest.raises(RunError, match="deleted or replaced"):
            write(log, make_step, range(2, 400))
        assert not path.exists()


@pytest.mark.parametrize(
    "line",
    [
        '{"event":"step","step":99999999999999999999999,"time_s":1.0,"batch":3}',
        '{"event":"rejection","step":5,"time_s":NaN,"count":1e400,"reason":[]}',
        '{"event":"thinned","step":7,"every":"x","missing":[[1],3]}',
        '{"event":"thinned","step":7,"every":0,"trained":0,"time_s":0}',
        '{"event":"step","step":5,"time_s":1e-+.,"batch":3,}',
        "\x1b[2J",
        "[]",
    ],
)
def test_a_file_with_something_else_in_it_can_be_thinned(path, make_header, make_step, line):
    with EventLog(path, make_header(), append=False) as log:
        for step in range(1, 101):
            log.write(make_step(step))
    path.write_text(path.read_text() + line + "\n")
    with EventLog(path, make_header(), append=True, most_bytes=MOST) as log:
        for step in range(101, 400):
            log.write(make_step(step))
    assert path.stat().st_size < MOST
    scan_events(path).gaps(0, 399, "")


class TestReaders:
    @pytest.fixture
    def folder(self, new_run):
        """A run whose files were thinned at its end."""
        folder = new_run(steps=600)
        for device in (0, 1):
            thin(folder / f"events-{device}.jsonl", 150_000)
        return folder

    def test_no_warning(self, folder):
        assert compare([folder]).warnings == ()
        assert [isinstance(RunFolder(folder).events(0)[-1], kind) for kind in (Finished, Step)] == [True, False]

    def test_pictures(self, folder, tmp_path):
        pytest.importorskip("matplotlib")
        plot_run(RunFolder(folder), tmp_path / "run.png")
        plot_timeline(RunFolder(folder), tmp_path / "timeline.png")
        assert (tmp_path / "run.png").stat().st_size > 0 < (tmp_path / "timeline.png").stat().st_size
