import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

import scadles
from scadles.assembly import build_dataset, build_network
from scadles.config import load_config
from scadles.errors import ConfigError
from scadles.observe import InitialValues, RunFolder, read_events
from scadles.simulation import simulate
from scadles.training.fingerprint import fingerprint
from scadles.training.portable import extra_state, flatten, model_tensors
from scadles.training.starting_values import take_values


@pytest.fixture
def settings(npz):
    return {
        "steps": 6,
        "picture": False,
        "data": {"dataset": f"npz:{npz}"},
        "stream": {"rates": 60},
        "clock": {"speed": 200},
        "checkpoint": {"every_steps": 2},
    }


@pytest.fixture
def train(settings, tmp_path, in_threads):
    """Train on so many devices that are threads; return the run folder."""

    def run(name, devices=1, **changes):
        resume = changes.pop("resume", False)

        def work(fabric):
            chosen = settings | {"devices": devices} | changes
            out = {"out": tmp_path / name, "quiet": True, "resume": resume}
            with scadles.join(chosen, fabric=fabric, **out) as device:
                for batch in device.batches():
                    device.step(cross_entropy(device.model(batch.x), batch.y))

        in_threads(devices, work)
        return tmp_path / name

    return run


def first_checkpoint(folder, device=0):
    found = load_file(folder / "checkpoints" / f"device-{device}" / "step-00000000.safetensors")
    return {name.removeprefix("model/"): t for name, t in found.items() if name.startswith("model/")}


def told(folder, device=0):
    return [event for event in read_events(folder / f"events-{device}.jsonl") if isinstance(event, InitialValues)]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def network(settings, **changes):
    config = load_config(settings | changes)
    return build_network(config, build_dataset(config))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (1, 1)])
def test_a_run_starts_from_another_run_of_any_number_of_devices(train, before, after):
    source = train("source", before)
    started = train("started", after, init_from=str(source), seed=7, checkpoint={"keep": 9})
    last = load_file(source / "model.safetensors")
    for device in range(after):
        assert same(first_checkpoint(started, device), last)
    [event] = told(started)
    assert event.path == str(source / "model.safetensors")
    assert event.sha256 == RunFolder(source).summary.model_sha256
    assert event.tensors == len(last)
    assert all(told(started, device) == [] for device in range(1, after))


def test_the_optimizer_starts_fresh(train):
    started = train("started", init_from=str(train("source")), checkpoint={"keep": 9})
    names = load_file(started / "checkpoints" / "device-0" / "step-00000000.safetensors")
    assert not any(name.startswith("optimizer/") for name in names)


def test_where_the_file_lies_does_not_matter(train, tmp_path):
    source = train("source")
    shutil.copy(source / "model.safetensors", tmp_path / "elsewhere.safetensors")
    one, other = train("one", init_from=str(source)), train("other", init_from=str(tmp_path / "elsewhere.safetensors"))
    assert told(one)[0].sha256 == told(other)[0].sha256


def test_only_device_0_needs_the_file(train, settings, tmp_path, in_threads):
    source = train("source")
    values = [str(source), str(tmp_path / "nowhere")]

    def work(fabric):
        chosen = settings | {"devices": 2, "init_from": values[fabric.rank], "checkpoint": {"keep": 9}}
        with scadles.join(chosen, fabric=fabric, out=tmp_path / f"run-{fabric.rank}", quiet=True) as device:
            for batch in device.batches():
                device.step(cross_entropy(device.model(batch.x), batch.y))

    in_threads(2, work)
    assert same(first_checkpoint(tmp_path / "run-1", 1), load_file(source / "model.safetensors"))


def test_of_a_run_that_has_not_ended_the_newest_whole_checkpoint_counts(train):
    source = train("source", 2)
    last = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    for device in (0, 1):
        newest = source / "checkpoints" / f"device-{device}" / "step-00000006.safetensors"
        newest.write_bytes(newest.read_bytes()[:-1])
    event = told(train("started", init_from=str(source)))[0]
    assert event.path == str(source / "checkpoints" / "device-0" / "step-00000004.safetensors")
    assert event.tensors == len(last)
    again = told(train("named", init_from=event.path))[0]
    assert again.sha256 == event.sha256


def test_a_resumed_run_goes_by_its_checkpoint_and_needs_no_file(train):
    source = train("source")
    started = train("started", init_from=str(source))
    shutil.rmtree(source)
    train("started", init_from=str(source), resume=True, steps=8)
    folder = RunFolder(started)
    assert folder.summary.steps == 8
    said = [event.message for event in folder.events(0) if event.kind == "notice"]
    assert said == [f"init_from = {source} is not read: the values are those of the checkpoint after step 6"]


def test_a_simulated_cluster_starts_from_them_too(train, settings, tmp_path):
    source = train("source")
    folder = tmp_path / "simulated"
    simulate(settings | {"devices": 3, "steps": 1, "optimizer": {"lr": 1e-12}, "init_from": str(source)}, out=folder)
    before, after = (load_file(path / "model.safetensors") for path in (source, folder))
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)
    assert told(folder)[0].sha256 == RunFolder(source).summary.model_sha256
    with pytest.raises(ConfigError, match=r"init_from = there: model = none has no values"):
        load_config(settings | {"model": "none", "init_from": "there"})


class Remembering(nn.Module):
    def __init__(self, word):
        super().__init__()
        self.body, self.word, self.more = nn.Linear(2, 2), word, torch.full((3,), float(len(word)))

    def get_extra_state(self):
        return {"word": self.word, "more": self.more}

    def set_extra_state(self, state):
        self.word, self.more = state["word"], state["more"]


def test_extra_state_comes_along(tmp_path):
    model, again = Remembering("old"), Remembering("newer")
    tensors = dict(model_tensors(model))
    said = flatten(extra_state(model), "extra state", tensors)
    save_file(tensors, tmp_path / "model.safetensors", {"extra_state": json.dumps(said)})
    assert take_values(tmp_path / "model.safetensors", again).tensors == 2
    assert (again.word, again.more.tolist()) == ("old", [3.0] * 3)
    assert fingerprint(again) == fingerprint(model)


def of_another_type(tensors):
    return {name: tensor.half() for name, tensor in tensors.items()}


class TestRefusals:
    @pytest.fixture
    def saved(self, settings, tmp_path):
        """Save a model's tensors as they are, or changed; return the path."""

        def save(change=lambda tensors: tensors, **changes):
            tensors = {name: t.clone() for name, t in network(settings, **changes).state_dict().items()}
            save_file(change(tensors), tmp_path / "model.safetensors")
            return tmp_path / "model.safetensors"

        return save

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda t: {}, r"another model: it lacks 1\.bias, 1\.weight, 3\.bias and 1 more; set model and norm"),
            (
                lambda t: {f"net.{n}": v for n, v in t.items()},
                r"lacks 1\.bias.* and has net\.1\.bias, .* and 1 more b",
            ),
            (lambda t: t | {"1.bias": torch.zeros(3)}, r"in the shape of 1\.bias \(\[3\] there, \[64\] here\)"),
            (of_another_type, r"in the type of 1\.bias \(float16 there, float32 here\), .* and 1 more"),
        ],
        ids=["nothing", "other names", "another shape", "another type"],
    )
    def test_another_model(self, saved, settings, change, said):
        model = network(settings)
        before = fingerprint(model)
        with pytest.raises(ConfigError, match=f"^init_from = .*{said}") as error:
            take_values(saved(change), model)
        assert "\n" not in str(error.value)
        assert fingerprint(model) == before

    def test_missing_half_and_foreign_files(self, saved, settings, tmp_path):
        model, path = network(settings), saved()
        whole = path.read_bytes()
        for content in (b"", b"?", whole[:-1], whole[:100], b"\xff" * 100, whole + b"0"):
            path.write_bytes(content)
            with pytest.raises(ConfigError, match="it is no safetensors file, or half of one"):
                take_values(path, model)
        (tmp_path / "empty").mkdir()
        for name, said in {
            "nowhere": "No such file or directory",
            "x" * 300: "File name too long",
            "empty": "holds neither a model nor a checkpoint",
            "/dev/zero": "a device, not a file",
        }.items():
            with pytest.raises(ConfigError, match=f"^init_from = .*{said}.*; name a model.safetensors, or the folder"):
                take_values(tmp_path / name, model)

    def test_checkpoints_none_of_which_is_whole(self, train, settings):
        source = train("source")
        (source / "model.safetensors").unlink()
        for path in source.glob("checkpoints/*/*"):
            path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ConfigError, match=r"none of its checkpoints is whole \(.*step-00000006.* is cut short"):
            take_values(source, network(settings))

    def test_all_devices_end_with_the_same_sentence(self, train, tmp_path):
        with pytest.raises(ConfigError, match=re.escape(f"init_from = {tmp_path / 'nowhere'}: No such file")):
            train("run", 2, init_from=str(tmp_path / "nowhere"))
