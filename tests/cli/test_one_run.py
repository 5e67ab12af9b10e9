"""A folder holds one run: a second one is refused, harmed files are named, and what vanishes ends the run."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

import scadles
from scadles.errors import CheckpointError, ConfigError, DivergedError, PeerLostError, RunError
from scadles.observe import Notice, RunFolder, Step, compare
from scadles.training.lock import LOCK_FILE

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def settings(npz):
    return {
        "devices": 2,
        "steps": 20,
        "seed": 4,
        "picture": False,
        "data": {"dataset": f"npz:{npz}"},
        "buffer": {"policy": "persistence"},
        "stream": {"rates": [60, 20]},
        "batch": {"window_s": 0.5},
        "clock": {"speed": 100},
        "checkpoint": {"every_steps": 5},
    }


@pytest.fixture
def run(in_threads, settings, tmp_path):
    """Train two devices in threads, in a folder of the test's own: ``run(step, resume=False, **settings)``.

    ``step(device, count)`` is called before each of the loop's steps.
    """

    def go(step=lambda *_: None, *, resume=False, **changes):
        def work(fabric):
            with scadles.join(
                settings | changes, out=tmp_path / "run", quiet=True, fabric=fabric, resume=resume
            ) as device:
                for count, batch in enumerate(device.batches(), start=1):
                    step(device, count)
                    device.step(cross_entropy(device.model(batch.x), batch.y))

        in_threads(2, work)
        return tmp_path / "run"

    return go


def file(folder, device, step=20):
    return folder / "checkpoints" / f"device-{device}" / f"step-{step:08d}.safetensors"


def as_earlier_version(path, state=None):
    """Write a checkpoint anew as the version did that knew neither identity nor checksum."""
    with safe_open(path, "pt") as found:
        state = state or found.metadata()["state"]
    save_file(load_file(path), path, {"format": "4", "state": state})


def listening(pids):
    """The addresses, in hexadecimal digits as the kernel has them, at which processes listen."""
    sockets, found = set(), []
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):  # closed meanwhile
                sockets.add(os.readlink(file))  # noqa: PTH115 - it may lead to what is no path
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, here, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in sockets:
                found.append(here.partition(":")[0])
    return found


def notices(folder, device):
    return [event.message for event in RunFolder(folder).events(device) if isinstance(event, Notice)]


def assert_whole(found):
    found.assert_trained_once()
    assert [step.step for step in found.events(0, Step)] == [step.step for step in found.events(1, Step)]


class TestTwoRuns:
    def test_a_second_run_and_a_resumption_are_refused_until_the_first_has_ended(
        self, tmp_path, start_training, finding, write_config, settings
    ):
        config = write_config(tmp_path / "c.yaml", **settings | {"clock": {"speed": 10}, "steps": 1_000_000})
        arguments = (config, "--local", 2, "--quiet", "--out", "run")
        first = start_training(tmp_path, *arguments)
        found = finding(tmp_path / "run", 2)
        first.until(lambda: all(found.checkpoints(device)[1:] for device in (0, 1)), "checkpoints")
        signed = (tmp_path / "run" / LOCK_FILE).read_bytes()
        for again in (["--set", "seed=1"], ["--resume"]):
            second = start_training(tmp_path, *arguments, *again)
            assert second.wait() == 2
            assert re.fullmatch(r"error: run is in use by a run since .+: wait for its end, or .+\n", second.err)
        assert (tmp_path / "run" / LOCK_FILE).read_bytes() == signed
        assert first.process.poll() is None
        first.kill_all()
        steps = max(found.checkpoints(0)[-1].stem, found.checkpoints(1)[-1].stem).removeprefix("step-")
        last = start_training(tmp_path, *arguments, "--resume", "--set", f"steps={int(steps) + 7}")
        assert (last.wait(), last.err) == (0, "")
        assert_whole(found)

    def test_devices_of_one_machine_are_reached_from_it_alone(self, tmp_path, start_training, write_config, settings):
        """Whoever else could connect to where they meet could end the run, or change what they agree on."""
        config = write_config(tmp_path / "c.yaml", **settings | {"clock": {"speed": 10}, "steps": 1_000_000})
        run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run")
        run.until(lambda: (tmp_path / "run" / "checkpoints" / "device-1").exists(), "a checkpoint")
        heard = run.until(lambda: listening(run.pids()), "connections")
        assert set(heard) <= {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1
        run.kill_all()

    def test_in_one_process_too(self, run, settings, tmp_path):
        refused = []

        def step(device, count):
            if count == 3 and device.rank == 0:
                for resume in (True, False):
                    with pytest.raises(ConfigError, match="is in use by a run") as error:
                        scadles.join(
                            settings | {"stream": {"rates": 9}, "devices": 1},
                            out=tmp_path / "run",
                            quiet=True,
                            resume=resume,
                        )
                    refused.append(error)

        folder = run(step)
        assert len(refused) == 2
        assert RunFolder(folder).summary.steps == 20

    def test_checkpoints_without_events_are_a_run_too(self, run):
        folder = run()
        for device in (0, 1):
            (folder / f"events-{device}.jsonl").unlink()
        with pytest.raises(ConfigError, match="holds a run already"):
            run()


class TestHarmedCheckpoints:
    def test_swapped_ones_are_refused_and_the_step_before_is_taken(self, run, finding):
        folder = run()
        other = file(folder, 1).rename(folder / "other")
        file(folder, 0).rename(file(folder, 1))
        other.rename(file(folder, 0))
        assert run(resume=True, steps=30) == folder
        [notice] = notices(folder, 0)
        assert notice.startswith("the run goes on from step 15, because newer ones are refused: device 0: ")
        assert "is device 1's, not device 0's" in notice
        assert "is device 0's, not device 1's" in notice
        assert_whole(finding(folder, 2))

    def test_those_of_another_run_are_refused(self, run, tmp_path):
        folder = run().rename(tmp_path / "first")
        folder = run()
        for step in (15, 20):
            shutil.copy(file(tmp_path / "first", 1, step), file(folder, 1, step))
        with pytest.raises(CheckpointError, match=r"no step's .+ device 1: \S+00020\.safetensors is of another run"):
            run(resume=True, steps=30)
        shutil.rmtree(folder / "checkpoints" / "device-1")
        with pytest.raises(
            CheckpointError, match="that all devices have a checkpoint of: device 0 has 15, 20, device 1 has none"
        ):
            run(resume=True, steps=30)

    def test_a_lost_identity_is_found_in_the_checkpoints(self, run, finding):
        folder = run()
        before = (folder / "run.json").read_text()
        (folder / "run.json").unlink()
        run(resume=True, steps=30)
        assert (folder / "run.json").read_text() == before
        assert notices(folder, 0) == []
        assert_whole(finding(folder, 2))

    def test_other_settings_are_refused_even_where_the_configuration_was_changed(self, run):
        folder = run()
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("seed: 4", "seed: 5"))
        with pytest.raises(CheckpointError, match="was written with another setting of seed"):
            run(resume=True, steps=30, seed=5)

    def test_a_run_of_an_earlier_version_goes_on(self, run, finding):
        folder = run()
        (folder / "run.json").unlink()
        for path in folder.glob("checkpoints/*/*.safetensors"):
            as_earlier_version(path)
        run(resume=True, steps=30)
        [notice] = notices(folder, 0)
        assert notice.startswith("the checkpoints of step 20 on devices [0, 1] are of an earlier version")
        assert notices(folder, 1) == []
        # from now on its checkpoints say what they are
        as_earlier_version(file(folder, 1, 30))
        run(resume=True, steps=40)
        assert "00030.safetensors does not say of which run it is" in notices(folder, 0)[1]
        assert_whole(finding(folder, 2))

    def test_an_earlier_versions_that_was_altered_is_one_sentence(self, run):
        folder = run()
        (folder / "run.json").unlink()
        state = '{"run": {"device": {"step": 20}, "clock_s": 1.0}, "optimizer": {}}'
        for device in (0, 1):
            as_earlier_version(file(folder, device), state)
        with pytest.raises(CheckpointError, match="does not hold what it should"):
            run(resume=True, steps=30)

    def test_strays_break_nothing(self, run, finding):
        folder = run()
        stray = [folder / ".DS_Store", folder / "events-x.jsonl", folder / "checkpoints" / "notes.txt"]
        stray += [folder / "checkpoints" / "device-0" / name for name in ("notes.txt", "step-abc.safetensors", ".x")]
        for path in stray:
            path.write_text("?")
        for name in ("events-7.jsonl", "checkpoints/device-9", "checkpoints/device-0/step-00000025.safetensors"):
            (folder / name).mkdir()
        run(resume=True, steps=30)
        assert all(path.exists() for path in stray)
        assert notices(folder, 0) == notices(folder, 1) == []
        assert compare([folder]).warnings == ()
        assert_whole(finding(folder, 2))


class TestHarmedEvents:
    def test_what_is_missing_is_named_and_the_run_goes_on(self, run):
        folder = run()
        (folder / "events-1.jsonl").unlink()
        events = folder / "events-0.jsonl"
        kept = [line for line in events.read_text().splitlines(keepends=True) if '"step","step":7,' not in line]
        events.write_text("".join(kept))
        run(resume=True, steps=25)
        [notice] = notices(folder, 0)
        assert notice.endswith("/events-0.jsonl lacks steps 7; the run goes on, because its checkpoints are whole")
        [notice] = notices(folder, 1)
        assert "/events-1.jsonl is missing; the run goes on" in notice
        assert RunFolder(folder).summary.steps == 25
        said = [warning.rpartition("/")[2] for warning in compare([folder]).warnings]
        assert said == ["events-0.jsonl lacks steps 7", "events-1.jsonl lacks steps 1 to 20"]

    def test_a_hole_does_not_keep_results_from_being_written(self, run, capsys):
        folder = run()
        events = folder / "events-0.jsonl"
        lines = events.read_bytes().splitlines(keepends=True)
        # from within a line to within the next one but one, so that what is left of them is no JSON whatever they hold
        events.write_bytes(b"".join([*lines[:6], lines[6][:5], lines[8][-2:], *lines[9:]]))
        run(resume=True, steps=25, picture=True)
        assert re.search(r"lacks steps|no events", capsys.readouterr().err)
        assert RunFolder(folder).summary.steps == 25


class TestVanishing:
    @pytest.mark.parametrize("what", ["events-1.jsonl", "checkpoints/device-1", "."])
    def test_the_run_ends_with_an_error_on_all_devices(self, run, tmp_path, what):
        ended = []

        def step(device, count):
            if count == 7 and device.rank == 1:
                path = tmp_path / "run" / what
                path.unlink() if path.is_file() else shutil.rmtree(path)
                ended.append(count)

        with pytest.raises((RunError, PeerLostError), match=r"was deleted or replaced|has vanished|lost device 1"):
            run(step, steps=100_000)
        assert ended
        assert not (tmp_path / "run" / what / "events-0.jsonl").exists()


class TestDiverged:
    def test_a_resumed_run_does_not_advise_what_has_just_failed(self, run):
        def meddle(device, count):
            if device.rank == 1 and count == 7:
                device.model[1].weight.data += 1

        with pytest.raises(DivergedError, match=r"or the exchange is broken$") as first:
            run(meddle)
        assert first.value.resumable
        with pytest.raises(DivergedError, match=r"resumed from step \d+, and would come to the same again") as again:
            run(meddle, resume=True)
        assert not again.value.resumable
