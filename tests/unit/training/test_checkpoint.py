import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from scadles.errors import CheckpointError, RunError
from scadles.training.checkpoint import FORMAT, Checkpoint, CheckpointStore, pack, unpack

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

    def test_a_packed_checkpoint_does_not_change_with_the_model(self):
        model, optimizer = make()
        checkpoint = pack(model, optimizer, {})
        before = checkpoint.tensors["model/0.weight"].clone()
        train(model, optimizer, 1)
        assert torch.equal(checkpoint.tensors["model/0.weight"], before)

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
        with pytest.raises(CheckpointError, match="is no checkpoint that can be read"):
            store.read(1)

    @pytest.mark.parametrize("metadata", [None, {"format": "1"}, {"format": "1", "state": "{torn"}])
    def test_a_file_of_something_else(self, store, metadata):
        store.folder.mkdir(parents=True)
        save_file({"a": torch.zeros(1)}, store.folder / "step-00000001.safetensors", metadata)
        with pytest.raises(CheckpointError, match="is no checkpoint that can be read"):
            store.read(1)

    def test_another_format_is_named(self, store):
        store.folder.mkdir(parents=True)
        metadata = {"format": str(FORMAT + 1), "state": json.dumps({})}
        save_file({"a": torch.zeros(1)}, store.folder / "step-00000001.safetensors", metadata)
        with pytest.raises(CheckpointError, match=f"has format {FORMAT + 1}, this version reads {FORMAT}"):
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


class TestCommon:
    @given(st.lists(st.sets(st.integers(0, 12), max_size=6), min_size=1, max_size=4))
    def test_the_newest_that_all_have(self, in_threads, tmp_path_factory, written):
        root = tmp_path_factory.mktemp("run")

        def work(fabric):
            store = CheckpointStore(root, fabric.rank, keep=2)
            store.folder.mkdir(parents=True)
            for step in written[fabric.rank]:
                (store.folder / f"step-{step:08d}.safetensors").touch()
            return store.newest_common(fabric)

        common = set.intersection(*(set(sorted(steps)[-2:]) for steps in written))
        assert in_threads(len(written), work) == [max(common, default=None)] * len(written)
