"""How a device comes to the run of a hub: its settings, its name, and what is said where it cannot."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import cross_entropy

import scadles
from scadles.errors import ConfigError, FabricError, NotAdmittedError
from scadles.fabric.hub import Hub, HubFabric
from scadles.testing.elastic import come_in
from scadles.training import hub as way

SETTINGS = {
    "method": "scadles",
    "batch": {"rule": "fixed", "size": 8},
    "steps": 3,
    "clock": {"speed": 50},
    "stream": {"rates": 50},
    "picture": False,
}


@pytest.fixture
def serving():
    settings = scadles.load_config(SETTINGS, ["devices=2", "fabric.backend=hub"]).model_dump(mode="json")
    hub = Hub("127.0.0.1", 0, 2, least=2, settings=settings)
    hub.start()
    yield "{}:{}".format(*hub.address)
    hub.close()


def test_what_is_the_devices_own_is_put_over_what_the_hub_says(serving):
    fabric, taken = way.reach(serving, "cam-1", {"stream": {"rates": 7}, "checkpoint": {"keep": 5}}, print)
    fabric.close()
    settings = taken.settings
    assert (settings.stream.rates, settings.checkpoint.keep, settings.devices) == (7, 5, 2)
    assert settings.batch.rule == "fixed", "also where that is a default which the method would change"


@pytest.mark.parametrize(
    "config", [{"steps": 4}, {"checkpoint": {"every_steps": 4}}, {"data": {"partition": "labels"}}, {"cost": {}}]
)
def test_settings_of_the_hub_are_refused(config):
    with pytest.raises(ConfigError, match=r"the hub says that, for all devices; a device's own are stream, data\.dat"):
        scadles.join(config, hub="127.0.0.1:1", name="cam-1")


def test_a_whole_configuration_is_refused():
    with pytest.raises(ConfigError, match="give only what is this device's own"):
        scadles.join(scadles.load_config(SETTINGS), hub="127.0.0.1:1", name="cam-1")


def test_a_file_says_what_is_the_devices_own(tmp_path):
    (tmp_path / "own.yaml").write_text("stream: {rates: 7}")
    assert way.own_settings(tmp_path / "own.yaml") == {"stream": {"rates": 7}}
    (tmp_path / "own.yaml").write_text("seed: 7")
    with pytest.raises(ConfigError, match="seed: the hub says that"):
        way.own_settings(tmp_path / "own.yaml")


@pytest.mark.parametrize("address", ["10.0.0.1", ":29400", "10.0.0.1:", "10.0.0.1:70000", "10.0.0.1:x", "10.0.0.1:²"])
def test_addresses(address):
    with pytest.raises(ConfigError, match="say HOST:PORT, for example"):
        way.reach(address, "cam-1", None, print)


def test_an_address_of_ipv6_is_in_brackets():
    assert way.address("[::1]:29400", "hub") == ("::1", 29400)


@pytest.mark.parametrize("name", [None, "", "x" * 65, "two\nlines"])
def test_names(name):
    with pytest.raises(ConfigError, match="give this device a name of 1 to 64 printable characters"):
        way.reach("127.0.0.1:1", name, None, print)


def test_a_name_without_a_hub():
    with pytest.raises(ConfigError, match="it belongs to hub=HOST:PORT"):
        scadles.join(SETTINGS, name="cam-1")


def test_neither_settings_nor_a_hub():
    with pytest.raises(ConfigError, match="give a config, or hub=HOST:PORT"):
        scadles.join()


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(way, "PATIENCE_S", 0.1)
    said = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
        with pytest.raises(
            FabricError, match=r"no hub answers at .* \(Connection refused\): does scadles hub run"
        ) as caught:
            way.reach(address, "cam-1", None, said.append)
    assert caught.value.exit_code == 3
    assert said == [f"the hub at {address} does not answer (Connection refused); trying for 0.1 s"]


def test_who_is_told_to_stop_while_it_waits_leaves(serving):
    fabric, _ = way.reach(serving, "cam-1", None, print)
    fabric.stopped = lambda: True
    with pytest.raises(NotAdmittedError, match="told to stop while it waited to be admitted"):
        come_in(fabric, 0)
    fabric.close()


def test_train_and_a_loop_of_ones_own_take_part_in_one_run(serving, tmp_path):
    def network():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    def trains():
        return scadles.train(hub=serving, name="cam-1", out=tmp_path / "cam-1", quiet=True, model=network())

    def loops():
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        where = {"hub": serving, "name": "cam-2", "out": tmp_path / "cam-2"}
        with scadles.join(model=model, optimizer=optimizer, quiet=True, **where) as device:
            for batch in device.batches():
                device.step(torch.nn.functional.cross_entropy(model(batch.x), batch.y))
        return device.summary

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(trains), pool.submit(loops)
        summaries = [one.result(60), two.result(60)]
    assert [summary.ended_by for summary in summaries] == ["steps", "steps"]
    assert len({summary.model_sha256 for summary in summaries}) == 1


def test_the_hub_refuses(serving):
    first = HubFabric(*way.address(serving, "hub"), "cam-1")
    second = HubFabric(*way.address(serving, "hub"), "cam-2")
    with pytest.raises(FabricError, match="the hub refuses cam-3: all 2 seats are taken, by cam-1, cam-2"):
        way.reach(serving, "cam-3", None, print)
    first.close()
    second.close()


def test_a_loop_with_another_network_is_told_so_and_so_is_the_hub(tmp_path):
    """It was never there: its seat is free again."""
    third = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.Linear(12, 10))
    said = _refused(tmp_path, third, None, "is not that of the run, whose settings say model = mlp")
    assert any("second" in line and "it has failed: this device's network" in line for line in said), said


def test_a_loop_with_another_optimizer_is_told_so(tmp_path):
    """The hub is not to blame for it."""
    another = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    adam = torch.optim.Adam(another.parameters())
    _refused(tmp_path, another, adam, "network or optimizer is not that of the run")


def _refused(tmp_path, model, optimizer, message):
    """Let a second loop come to one that steps, and be refused with ``message``; return what the hub says."""
    said = []
    more = ["devices=2", "fabric.backend=hub", "model=mlp", "steps=null", "duration_s=100000"]
    settings = scadles.load_config(SETTINGS, more).model_dump(mode="json")
    hub = Hub("127.0.0.1", 0, 2, settings=settings, say=said.append)
    hub.start()
    try:
        address = f"{hub.address[0]}:{hub.address[1]}"
        other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        with scadles.join(hub=address, name="first", model=other, out=tmp_path / "first", quiet=True) as first:
            batches = first.batches()
            batch = next(batches)
            with ThreadPoolExecutor(1) as pool:
                joining = pool.submit(_come_in, address, model, tmp_path / "second", optimizer)
                while not joining.done():
                    first.step(cross_entropy(first.model(batch.x), batch.y))
                    batch = next(batches)
                with pytest.raises(ConfigError, match=message):
                    joining.result()
    finally:
        hub.close()
    return said


def _come_in(address, model, out, optimizer):
    about = {"model": model, "optimizer": optimizer, "out": out, "quiet": True}
    with scadles.join(hub=address, name="second", **about) as device:
        next(device.batches())
