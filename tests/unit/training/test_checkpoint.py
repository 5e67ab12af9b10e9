import json
import os
import random
import re
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from scadles.errors import CheckpointError, RunError
from scadles.training.agreement import newest_common
from scadles.training.checkpoint import Checkpoint, CheckpointStore
from scadles.training.checkpoint_file import FORMAT, FORMAT_WITHOUT_CHECKSUM
from scadles.training.identity import RunIdentity
from scadles.training.packing import pack, unpack

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.9)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


def make(kind="sgd", outputs=3):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, outputs))
    return model, OPTIMIZERS[kind](model.parameters())


def train(model, optimizer, steps):
    """Take steps whose data and dropout come from torch's global generator."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path, device=0, keep=3)


def small(step=1):
    return Checkpoint({"a": torch.full((2,), float(step))}, {"run": {"step": step}})


class TestRoundTrip:
    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_training_goes_on_to_the_bit(self, store, kind):
        torch.manual_seed(5)
        model, optimizer = make(kind)
        train(model, optimizer, 3)
        store.write(3, pack(model, optimizer, {"samples_seen": 24}))
        train(model, optimizer, 4)
        torch.manual_seed(77)
        again, its_optimizer = make(kind)
        assert unpack(store.read(3), again, its_optimizer) == {"samples_seen": 24}
        train(again, its_optimizer, 4)
        assert same(model, again)

    def test_before_the_first_step(self, store):
        model, optimizer = make()
        store.write(0, pack(model, optimizer, {}))
        again, its_optimizer = make()
        assert unpack(store.read(0), again, its_optimizer) == {}
        assert same(model, again)

    def test_a_changed_learning_rate_comes_back(self, store):
        model, optimizer = make()
        optimizer.param_groups[0]["lr"] = 0.0123
        store.write(1, pack(model, optimizer, {}))
        again, its_optimizer = make()
        unpack(store.read(1), again, its_optimizer)
        assert its_optimizer.param_groups[0]["lr"] == 0.0123

    def test_tied_weights(self, store):
        def tied():
            model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
            model[1].weight = model[0].weight
            return model, torch.optim.SGD(model.parameters(), lr=0.1)

        model, optimizer = tied()
        store.write(1, pack(model, optimizer, {}))
        again, its_optimizer = tied()
        unpack(store.read(1), again, its_optimizer)
        assert same(model, again)
        assert again[0].weight is again[1].weight

    def test_tensors_are_copied_only_where_they_share_memory(self, store):
        model, optimizer = make()
        both = torch.arange(20.0)
        model[0].weight.data = both.view(5, 4)
        model[0].bias.data = both[:5]
        model[3].weight.data = torch.arange(15.0).view(5, 3).t()
        checkpoint = pack(model, optimizer, {})
        shared = [t.data_ptr() == checkpoint.tensors[f"model/{n}"].data_ptr() for n, t in model.state_dict().items()]
        names = list(model.state_dict())
        assert [n for n, same in zip(names, shared, strict=True) if not same] == ["0.bias", "3.weight"]
        store.write(1, checkpoint)
        again, its_optimizer = make()
        unpack(store.read(1), again, its_optimizer)
        assert same(model, again)

    @settings(max_examples=25)  # each one waits for the disk
    @given(
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    def test_any_json_survives(self, tmp_path_factory, state):
        store = CheckpointStore(tmp_path_factory.mktemp("run"), 0, 2)
        store.write(1, Checkpoint({}, {"run": state}))
        assert store.read(1).state == {"run": state}


class TestForeign:
    def test_another_model_is_refused(self):
        checkpoint = pack(*make(outputs=3), {})
        with pytest.raises(CheckpointError, match="another model or optimizer"):
            unpack(checkpoint, *make(outputs=4))

    @pytest.mark.parametrize(("saved", "given_one"), [("sgd", "adam"), ("adam", "sgd"), ("adagrad", "adam")])
    def test_another_optimizer_is_refused(self, saved, given_one):
        model, optimizer = make(saved)
        train(model, optimizer, 1)
        other, its_optimizer = make(given_one)
        before = [p.clone() for p in other.parameters()]
        with pytest.raises(CheckpointError, match="another optimizer"):
            unpack(pack(model, optimizer, {}), other, its_optimizer)
        assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True)), "nothing is touched"

    def test_other_parameter_groups_are_refused(self):
        checkpoint = pack(*make(), {})
        model, _ = make()
        parts = torch.optim.SGD([{"params": part.parameters()} for part in (model[0], model[1], model[3])], lr=0.1)
        with pytest.raises(CheckpointError, match="another"):
            unpack(checkpoint, model, parts)


class TestTorn:
    def test_a_missing_one(self, store):
        with pytest.raises(CheckpointError, match=r"step-00000007\.safetensors is no checkpoint"):
            store.read(7)

    @pytest.mark.parametrize("keep_bytes", [0, 4, 100, -1])
    def test_one_cut_short(self, store, keep_bytes):
        store.write(1, pack(*make(), {}))
        [file] = store.folder.iterdir()
        file.write_bytes(file.read_bytes()[:keep_bytes])
        with pytest.raises(CheckpointError, match=r"00001\.safetensors is (no checkpoint that can be read|cut short)"):
            store.read(1)

    @pytest.mark.parametrize("metadata", [None, {}, {"format": "4"}, {"format": "4", "state": "{torn"}])
    def test_a_file_of_something_else(self, store, metadata):
        put(store, 1, metadata)
        with pytest.raises(CheckpointError, match="is no checkpoint that can be read"):
            store.read(1)

    def test_another_format_is_named(self, store):
        put(store, 1, {"format": str(FORMAT + 1), "state": json.dumps({})})
        with pytest.raises(CheckpointError, match=f"has format {FORMAT + 1}, this version reads {FORMAT} and"):
            store.read(1)

    def test_a_crash_while_writing_leaves_the_older_ones(self, store, monkeypatch):
        store.write(1, small(1))

        def crash(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            store.write(2, small(2))
        assert store.steps() == [1]
        assert store.read(1).state["run"] == {"step": 1}

    def test_a_full_disk_is_told_and_leaves_the_older_ones(self, store, monkeypatch):
        store.write(1, small(1))

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"step-00000002.*No space left on device; free some space and use --resume"):
            store.write(2, small(2))
        assert [file.name for file in store.folder.iterdir()] == ["step-00000001.safetensors"]


class TestKeeping:
    def test_the_newest_are_kept(self, store):
        for step in (0, 5, 10, 15, 20):
            store.write(step, small(step))
        assert store.steps() == [10, 15, 20]
        assert [store.read(step).state["run"]["step"] for step in store.steps()] == [10, 15, 20]

    def test_a_step_can_be_written_again(self, store):
        store.write(5, small(1))
        store.write(5, small(2))
        assert store.steps() == [5]
        assert store.read(5).state["run"] == {"step": 2}

    def test_newer_ones_are_discarded_on_going_back(self, store):
        for step in (5, 10, 15):
            store.write(step, small(step))
        store.discard_after(10)
        assert store.steps() == [5, 10]

    def test_there_are_none_before_the_first(self, store):
        assert store.steps() == []
        store.discard_after(0)


class TestEveryByte:
    def test_no_changed_byte_is_accepted(self, store):
        """Each byte of a checkpoint is changed at least once, those of the header, its length and padding too."""
        model, optimizer = make()
        train(model, optimizer, 1)
        checkpoint = pack(model, optimizer, {"device": {"step": 7}, "text": '"crc32":"00000000"'})
        # torch's generator is 5 kB that say nothing about the format
        generator = checkpoint.tensors["generator/torch"][:200]
        store.write(7, checkpoint._replace(tensors=checkpoint.tensors | {"generator/torch": generator}))
        [path] = store.folder.iterdir()
        whole = path.read_bytes()
        rng = random.Random(5)
        places = [*range(len(whole)), *(rng.randrange(len(whole)) for _ in range(4000 - len(whole)))]
        assert len(places) >= 4000 > len(whole) / 2
        with path.open("r+b", buffering=0) as file:
            for place in places:
                os.pwrite(file.fileno(), bytes([whole[place] ^ rng.randrange(1, 256)]), place)
                with pytest.raises(CheckpointError, match="step-00000007"):
                    store.read(7)
                os.pwrite(file.fileno(), whole[place : place + 1], place)
        assert store.read(7).step == 7

    def test_the_checksum_of_a_large_file_is_right_too(self, store):
        checkpoint = Checkpoint({"a": torch.arange(2_000_000)}, {})
        store.write(3, checkpoint)
        assert torch.equal(store.read(3).tensors["a"], checkpoint.tensors["a"])
        [path] = store.folder.iterdir()
        with path.open("r+b") as file:
            file.seek(9_000_000)
            file.write(b"\1")
        with pytest.raises(CheckpointError, match="was altered"):
            store.read(3)

    def test_any_reader_of_safetensors_reads_it(self, store):
        kinds = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
        tensors = {f'a "{kind}" ü': torch.arange(6).view(2, 3).to(getattr(torch, kind)) for kind in kinds}
        tensors |= {kind: torch.ones(3).to(getattr(torch, kind)) for kind in ("float8_e4m3fn", "float8_e5m2")}
        tensors |= {"none": torch.empty(0, 4), "one": torch.tensor(3.5), "first": torch.tensor([True, False, True])}
        store.write(1, Checkpoint(tensors, {}))
        [path] = store.folder.iterdir()
        for found in (load_file(path), store.read(1).tensors):
            assert found.keys() == tensors.keys()
            for name, tensor in tensors.items():
                assert found[name].dtype == tensor.dtype
                assert found[name].tolist() == tensor.tolist()

    def test_a_type_that_safetensors_has_not_is_one_sentence(self, store):
        with pytest.raises(RunError, match=r"a has type torch\.complex128, which safetensors does not know"):
            store.write(1, Checkpoint({"a": torch.zeros(2, dtype=torch.complex128)}, {}))


RUN = RunIdentity("aa" * 16, 2, {"seed": "1", "batch": "2"})


def put(store, step, metadata):
    """Put a file of another making where a checkpoint belongs."""
    store.folder.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.zeros(1)}, store.folder / f"step-{step:08d}.safetensors", metadata)


def put_old(store, step):
    """Put a checkpoint of the format that has neither checksum nor identity."""
    state = json.dumps({"run": {"device": {"step": step}}})
    put(store, step, {"format": str(FORMAT_WITHOUT_CHECKSUM), "state": state})


class TestIdentity:
    @pytest.mark.parametrize(
        ("changes", "device", "step", "why"),
        [
            ({}, 1, 4, "is device 1's, not device 0's"),
            ({}, 0, 5, "is of step 5, not of step 4"),
            ({"run": "bb" * 16}, 0, 4, "is of another run (bbbbbbbb; this one is aaaaaaaa)"),
            ({"run": ""}, 0, 4, "is of another run (unknown; this one is aaaaaaaa)"),
            ({"settings": {"seed": "1"}}, 0, 4, "was written with another setting of batch"),
            ({"settings": {"seed": "1", "batch": "3"}}, 0, 4, "was written with another setting of batch"),
        ],
    )
    def test_what_is_not_this_ones_is_refused(self, tmp_path, changes, device, step, why):
        other = CheckpointStore(tmp_path / "other", device, 2, replace(RUN, **changes))
        other.write(step, small())
        store = CheckpointStore(tmp_path / "run", 0, 2, RUN)
        store.folder.mkdir(parents=True)
        [file] = other.folder.iterdir()
        file.rename(store.folder / "step-00000004.safetensors")
        with pytest.raises(CheckpointError, match=re.escape(f"step-00000004.safetensors {why}")):
            store.read(4)

    def test_ones_own_is_taken(self, tmp_path):
        store = CheckpointStore(tmp_path, 0, 2, RUN)
        store.write(4, small()._replace(model_sha256="ab" * 32))
        again = store.read(4)
        assert (again.step, again.model_sha256, again.has_identity) == (4, "ab" * 32, True)

    def test_a_setting_that_may_change_by_now_does_not_count(self, tmp_path):
        CheckpointStore(tmp_path, 0, 2, RUN).write(4, small())
        freer = replace(RUN, settings={"seed": "1"})
        assert CheckpointStore(tmp_path, 0, 2, freer).read(4).step == 4

    def test_an_earlier_format_is_taken_only_in_an_earlier_run(self, tmp_path):
        store = CheckpointStore(tmp_path, 0, 2, replace(RUN, unchecked_to=4))
        put_old(store, 4)
        assert not store.read(4).has_identity
        put_old(store, 5)
        with pytest.raises(CheckpointError, match="does not say of which run it is"):
            store.read(5)

    def test_an_earlier_format_of_another_step_is_refused(self, store):
        put_old(store, 4)
        (store.folder / "step-00000004.safetensors").rename(store.folder / "step-00000008.safetensors")
        with pytest.raises(CheckpointError, match="is of step 4, not of step 8"):
            store.read(8)


class TestStrays:
    def test_other_names_do_not_matter(self, store):
        store.write(1, small())
        for name in (
            "notes.txt",
            ".DS_Store",
            "step-abc.safetensors",
            "step-1.safetensors",
            "step-00000009.safetensor",
        ):
            (store.folder / name).write_text("?")
        (store.folder / "step-00000007.safetensors").mkdir()
        (store.folder / "step-00000007.tmp").mkdir()
        before = {path.name for path in store.folder.iterdir()}
        assert store.steps() == [1]
        store.discard_after(1)
        assert {path.name for path in store.folder.iterdir()} == before

    def test_a_folder_in_the_way_is_moved_aside(self, store):
        store.write(1, small())
        (store.folder / "step-00000002.safetensors" / "x").mkdir(parents=True)
        store.write(2, small(2))
        assert store.steps() == [1, 2]
        assert (store.folder / "step-00000002.refused-1" / "x").exists()

    def test_a_folder_that_vanishes_is_told(self, store):
        store.write(1, small())
        shutil.rmtree(store.folder)
        with pytest.raises(RunError, match="device-0 has vanished while the run was going on"):
            store.write(2, small(2))
        assert not store.folder.exists()


class TestCommon:
    @given(st.lists(st.sets(st.integers(0, 9), max_size=5), min_size=1, max_size=3))
    @settings(max_examples=30, deadline=None)  # each one waits for the disk
    def test_the_newest_that_all_have(self, in_threads, tmp_path_factory, written):
        root = tmp_path_factory.mktemp("run")

        def work(fabric):
            store = CheckpointStore(root, fabric.rank, 9, RunIdentity(devices=len(written)))
            for step in written[fabric.rank]:
                store.write(step, small(step))
            try:
                found = newest_common(store, fabric)
            except CheckpointError as error:
                return str(error).partition(":")[0]
            assert not found or found.notices == []
            return found and found.step

        nothing = (
            None
            if not max(set.union(*written), default=0)
            else "there is no step that all devices have a checkpoint of"
        )
        common = set.intersection(*written)
        assert in_threads(len(written), work) == [max(common) if common else nothing] * len(written)

    @pytest.fixture
    def agree(self, in_threads, tmp_path):
        """Let two devices write steps 5, 10 and 15, harm them, and agree: what each finds, is told, and holds then."""

        def run(harm):
            stores = [CheckpointStore(tmp_path, device, 3, RUN) for device in (0, 1)]
            for store in stores:
                for step in (5, 10, 15):
                    store.write(step, small(step)._replace(model_sha256=f"{step}"))
            harm(*stores)

            def work(fabric):
                store = stores[fabric.rank]
                found = newest_common(store, fabric)
                store.discard_after(found.step)
                return found.step, found.notices, sorted(path.name for path in store.folder.iterdir())

            return in_threads(2, work)

        return run

    def test_a_half_file_on_one_device_takes_all_one_step_back(self, agree):
        def harm(_, other):
            path = other.folder / "step-00000015.safetensors"
            path.write_bytes(path.read_bytes()[:-3])

        (step, notices, held), (other_step, other_notices, other_held) = agree(harm)
        assert step == other_step == 10
        [notice] = notices
        assert re.fullmatch(
            r"the run goes on from step 10, because newer ones are refused: "
            r"device 1: \S+/device-1/step-00000015\.safetensors is cut short or was altered: .+",
            notice,
        )
        assert other_notices == []
        assert held == ["step-00000005.safetensors", "step-00000010.safetensors"]
        assert other_held == [*held, "step-00000015.refused-1"]

    def test_a_swap_is_refused_on_both_and_kept(self, agree):
        def harm(one, other):
            ours, theirs = (store.folder / "step-00000015.safetensors" for store in (one, other))
            ours.rename(ours.with_suffix(".x"))
            theirs.rename(ours)
            ours.with_suffix(".x").rename(theirs)

        (step, [notice], held), (_, _, other_held) = agree(harm)
        assert step == 10
        assert "is device 1's, not device 0's" in notice
        assert "is device 0's, not device 1's" in notice
        assert "step-00000015.refused-1" in held
        assert "step-00000015.refused-1" in other_held

    def test_another_number_of_devices_is_refused(self, agree):
        def harm(_, other):
            other.identity = replace(RUN, devices=3)
            other.write(15, small()._replace(model_sha256="15"))

        (step, [notice], _), _ = agree(harm)
        assert step == 10
        assert "device 1: its checkpoint is of a step of 3 devices, device 0's of 2" in notice

    @pytest.mark.parametrize(("before", "now"), [(1, 3), (3, 1), (2, 3)])
    def test_who_took_no_part_in_a_step_has_no_say(self, in_threads, tmp_path, before, now):
        for device in range(3):
            store = CheckpointStore(tmp_path, device, 3, replace(RUN, devices=before))
            for step in (5, 10) if device < before else (5, 7):
                store.write(step, small(step)._replace(model_sha256=f"{step} {device >= before}"))

        def work(fabric):
            found = newest_common(CheckpointStore(tmp_path, fabric.rank, 3, replace(RUN, devices=now)), fabric)
            return found.step, found.devices, found.checkpoint is not None

        assert in_threads(now, work) == [(10, before, device < before) for device in range(now)]

    def test_models_that_differ_are_refused(self, agree):
        (step, [notice], _), _ = agree(lambda _, other: other.write(15, small()._replace(model_sha256="another")))
        assert step == 10
        assert "device 1: its checkpoint holds another model than those of the others" in notice

    def test_a_stray_step_on_one_device_changes_nothing(self, agree):
        (step, notices, held), _ = agree(lambda one, _: put(one, 99999999, None))
        assert (step, notices) == (15, [])
        assert "step-99999999.safetensors" not in held

    def test_where_nothing_is_whole_all_say_so(self, agree):
        def harm(one, _):
            for step in one.steps():
                put(one, step, None)

        with pytest.raises(
            CheckpointError, match=r"no step's checkpoints are whole on all devices: device 0: .+15\.saf"
        ):
            agree(harm)

    def test_an_earlier_format_is_told_once(self, in_threads, tmp_path):
        def work(fabric):
            store = CheckpointStore(tmp_path, fabric.rank, 2)
            put_old(store, 10)
            found = newest_common(store, fabric)
            assert not found.checkpoint.has_identity
            return found.notices

        [notice], nothing = in_threads(2, work)
        assert "step 10 on devices [0, 1] are of an earlier version" in notice
        assert nothing == []
