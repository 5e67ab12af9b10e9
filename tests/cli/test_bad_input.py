"""What a user can get wrong: one clear message that names field, value and way out, and exit code 2."""

import re
import socket

import pytest

import scadles
from scadles.config import load_config
from scadles.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch, write_config, npz):
    """The current folder, with a configuration of one device that needs two steps."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    write_config(tmp_path / "c.yaml", steps=2, data={"dataset": f"npz:{npz}"}, clock={"speed": 20})
    return tmp_path


@pytest.fixture
def train(folder, command):
    """Type ``scadles train ARGUMENTS``; return exit code and standard error."""

    def run(*arguments):
        code, _, err = command("train", *arguments)
        return code, err

    return run


def assert_refused(outcome, *told):
    code, err = outcome
    assert code == 2
    assert len(re.findall("error: ", err)) == 1
    assert "Traceback" not in err
    for part in told:
        assert part in err


def test_a_configuration_that_is_missing(train):
    assert_refused(train("no.yaml"), "error: cannot read the configuration no.yaml: No such file or directory")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1, 2\nb: 3", "c.yaml is not YAML"),
        ("\x00\x01", "c.yaml is not YAML"),
        ("just words", "c.yaml must hold settings (key: value), not str"),
        ("", "c.yaml must hold settings (key: value), not NoneType"),
    ],
)
def test_a_configuration_that_is_none(train, folder, text, told):
    (folder / "c.yaml").write_text(text)
    outcome = train("c.yaml", "--local", 2)
    assert_refused(outcome, told)
    assert len(outcome[1].splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("batch.sise=32", ("batch.sise", "unknown", "did you mean", "size")),
        ("colour=red", ("colour", "unknown")),
        ("batch.size=many", ("batch.size", "'many'", "integer")),
        ("batch.size=0", ("batch.size", "0", "greater than or equal to 1")),
        ("method=magic", ("method", "'magic'", "'scadles', 'ddl' or 'auto'")),
        ("batch=3", ("batch", "3")),
        ("nonsense", ("--set 'nonsense'", "key=value", "--set batch.size=32")),
        ("steps=null", ("never end", "steps, duration_s or target_accuracy")),
        ("stream.rates=[1,2,3]", ("stream.rates", "3 entries", "devices is 1", "one for each device")),
        ("fabric.deadline_s=0.01", ("fabric.deadline_s = 0.01", "raise the deadline or lower batch.window_s")),
        ("stream.url=kafka://host/topic", ("clock.speed 20", "replayed stream", "kafka is live")),
        ("stream.url=carrier-pigeon://x", ("clock.speed 20", "carrier-pigeon is live")),
        ("stream.url=replay://?rate=fast", ("rate='fast'", "must be a number")),
        ("stream.url=replay://?pace=3", ("unknown parameter 'pace'",)),
        ("stream.rates=-5", ("stream.rates", "-5", "greater than or equal to 0")),
        ("data.dataset=digit", ("data.dataset = 'digit'", "unknown data set", "did you mean digits?")),
        ("data.dataset=mine.npz", ("data.dataset = 'mine.npz'", "unknown data set", "a file is npz:PATH")),
        ("data.dataset=npz:no.npz", ("cannot read no.npz", "No such file", "np.savez")),
        ("data.dataset=npz:c.yaml", ("c.yaml is not a file of arrays", "np.savez")),
        ("data.dataset=npz", ("data.dataset = 'npz'", "npz:PATH")),
        ("model=cnnn", ("model 'cnnn'", "did you mean cnn, or write", "MODULE:CALLABLE")),
        ("model=no_such_module:net", ("model 'no_such_module:net'", "cannot import")),
        ("model=math:net", ("model 'math:net'", "has no 'net'")),
        ("model=math:pi", ("model 'math:pi'", "not something to call")),
        ("devices=4", ("devices = 4", "--local 4", "torchrun --nproc-per-node 4")),
    ],
)
def test_a_setting_that_cannot_work(train, setting, told):
    assert_refused(train("c.yaml", "--set", setting, "--quiet", "--out", "run"), *told)


@pytest.mark.parametrize("setting", ["data.dataset=npz:no.npz", "model=no_such_module:net"])
def test_a_mistake_leaves_nothing_in_the_way_of_the_next_try(train, setting):
    assert train("c.yaml", "--set", setting, "--quiet", "--out", "run")[0] == 2
    assert train("c.yaml", "--quiet", "--out", "run") == (0, "")


def test_a_network_with_lazy_layers(train, folder):
    (folder / "lazy_networks.py").write_text("from torch import nn\n\ndef net():\n    return nn.LazyLinear(4)\n")
    assert_refused(train("c.yaml", "-q", "--set", "model=lazy_networks:net"), "lazy", "forward")


def test_fewer_samples_than_devices(in_threads, folder, write_npz):
    data = write_npz(folder / "tiny.npz", 2, classes=2)
    settings = load_config(folder / "c.yaml", [f"data.dataset=npz:{data}"])
    with pytest.raises(DataError, match="2 training samples cannot be dealt to 3 devices: use fewer devices, a larger"):
        in_threads(3, lambda fabric: scadles.join(settings, out=folder / "run", quiet=True, fabric=fabric))


def test_run_folders(train, folder):
    assert_refused(train("c.yaml", "-q", "--resume"), "--resume needs --out")
    assert_refused(train("c.yaml", "-q", "--resume", "--out", "run"), "run holds no run to resume", "without --resume")
    assert train("c.yaml", "-q", "--out", "run") == (0, "")
    assert_refused(train("c.yaml", "-q", "--out", "run"), "run holds a run already", "another --out", "--resume")
    assert_refused(
        train("c.yaml", "-q", "--out", "run", "--resume", "--set", "buffer.capacity=100"),
        "buffer",
        "a resumed run must keep it",
    )
    (folder / "file").write_text("")
    assert_refused(train("c.yaml", "-q", "--out", "file"), "file is a file", "another --out")
    assert train("c.yaml", "-q", "--out", "run", "--resume", "--set", "steps=4") == (0, "")


def test_a_torn_checkpoint(train, folder):
    assert train("c.yaml", "-q", "--out", "run") == (0, "")
    for path in (folder / "run" / "checkpoints" / "device-0").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    assert_refused(
        train("c.yaml", "-q", "--out", "run", "--resume", "--set", "steps=4"),
        "step-00000002.safetensors is no checkpoint that can be read",
    )


def test_local_processes_under_torchrun(train, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_refused(train("c.yaml", "--local", 2), "leave it out under torchrun")


def test_an_environment_that_torchrun_did_not_make(train, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert_refused(train("c.yaml", "-q"), "RANK = None", "torchrun", "--local N")
    monkeypatch.setenv("RANK", "0")
    assert_refused(train("c.yaml", "-q"), "cannot meet the other devices", "MASTER_ADDR")


def test_method_auto_of_one_device_that_nobody_has_named(train, folder, monkeypatch):
    """It runs as it does where one is named, alone and under torchrun."""
    assert train("c.yaml", "-q", "--set", "method=auto", "--out", "alone")[0] == 0
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert_refused(train("c.yaml", "-q", "--set", "method=auto"), "cannot meet the other devices", "MASTER_ADDR")
    config = load_config(folder / "alone" / "config.yaml")
    assert (config.devices, config.batch.window, config.compression.ratio) == (1, "fixed", None)


def test_a_port_that_is_in_use(start_training, folder):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        surroundings = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        run = start_training(folder, "c.yaml", "-q", **surroundings)
        code = run.wait()
    assert_refused((code, run.err), f"port 127.0.0.1:{port} is in use: choose another MASTER_PORT")
