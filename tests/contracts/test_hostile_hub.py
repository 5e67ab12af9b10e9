"""A hub that lies, or a member that lies through it, over real frames: refused in one sentence, and nothing happens."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

import scadles
from hub_devices import LIMIT_S, SETTINGS, Device, hub_starter, until
from scadles.cli.app import main
from scadles.errors import FabricError, UntrustedError
from scadles.fabric.hub import Hub, HubFabric, connection, views
from scadles.fabric.hub.frames import MOST_BYTES, PIECE_BYTES, Frame, Kind
from scadles.fabric.hub.handover import HandOver
from scadles.training import admission

pytestmark = pytest.mark.timeout(300)
ORDINARY = scadles.load_config(SETTINGS).model_dump(mode="json")


def assert_one_sentence(text):
    assert text.isprintable(), text
    assert len(text) < 600, text


# ---- settings ----


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a trace where it is imported or called, and a check that nothing but a folder is new."""
    place = tmp_path / "modules"
    place.mkdir()
    (place / "sprung.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\ndef sprung(*_, **__): ...\n")
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.chdir(tmp_path)

    def check():
        found = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
        assert found == {Path("modules/sprung.py")}
        assert "sprung" not in sys.modules

    return check


@pytest.fixture
def lying():
    """Start a hub that says these settings, and return its address."""
    running = []

    def start(**settings):
        hub = Hub("127.0.0.1", 0, 2, least=1, settings={**ORDINARY, **settings})
        hub.start()
        running.append(hub)
        return "{}:{}".format(*hub.address)

    yield start
    for hub in running:
        hub.close()


def nested(levels):
    tree = "x"
    for _ in range(levels):
        tree = {"a": tree}
    return tree


LIES = [
    ({"model": "os:system"}, "--allow model=os:system"),
    ({"model": "sprung:sprung"}, "--allow model=sprung:sprung"),
    ({"task": "sprung:sprung"}, "--allow task.kind=sprung:sprung"),
    ({"task": {"loss": "sprung:sprung"}}, "--allow task.loss=sprung:sprung"),
    ({"task": {"metrics": ["accuracy", "sprung:sprung"]}}, "--allow task.metrics=sprung:sprung"),
    ({"stream": {"codec": {"format": "sprung:sprung"}}}, "--allow stream.codec.format=sprung:sprung"),
    ({"stream": {"url": "python://sprung:sprung"}}, "--allow stream.url=python://sprung:sprung"),
    ({"stream": {"url": "kafka://127.0.0.1:1/t?plugin.library.paths=/tmp/x.so"}}, "names an address on this device"),
    ({"stream": {"url": "mqtts://127.0.0.1:1/t?username=u&password=file:/etc/passwd"}}, "names an address on"),
    ({"data": {"dataset": "npz:/etc/passwd"}}, "--allow data.dataset=npz:/etc/passwd"),
    ({"data": {"dataset": "csv:../../secret.csv"}}, "--allow data.dataset=csv:../../secret.csv"),
    ({"data": {"root": "../elsewhere"}}, "--allow data.root=../elsewhere"),
    ({"init_from": "/etc/passwd"}, "--allow init_from=/etc/passwd"),
    ({"cost": {"profile": "/etc/passwd.yaml"}}, "--allow cost.profile=/etc/passwd.yaml"),
    ({"model": "a:b\x1b[2J\nerror: all is well"}, "nobody writes such a name"),
    ({"model": nested(100)}, "more than 32 levels"),
]


@pytest.mark.parametrize(("lie", "told"), LIES, ids=[str(next(iter(lie)))[:20] for lie, _ in LIES])
def test_a_hub_names_nothing_that_is_not_allowed(trap, lying, monkeypatch, capsys, lie, told):
    argv = ["scadles", "join", lying(**lie), "--name", "cam-1", "--out", "run", "--quiet"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 3
    assert told in " ".join(said.split())
    assert said.startswith("error: ")
    assert_one_sentence(said.removesuffix("\n"))
    trap()


def test_what_is_allowed_is_used_and_told(trap, lying, monkeypatch, capsys):
    argv = ["scadles", "join", lying(model="sprung:sprung"), "--name", "cam-1", "--out", "run"]
    monkeypatch.setattr("sys.argv", [*argv, "--allow", "model=sprung:*"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert "settings from the hub, among them, as this device allows: model = 'sprung:sprung'\n" in said
    assert "'sprung:sprung' returned NoneType" in said
    assert end.value.code == 2
    assert Path("trace").exists()
    assert "model: sprung:sprung\n" in Path("run/settings_from_hub.yaml").read_text()
    del sys.modules["sprung"]


# ---- what a hub says of itself and of who takes part ----


def lies_about(monkeypatch, **lie):
    """Let hubs tell of views what they never would."""
    send = views.Views._send

    def lying_send(self, member, content):
        send(self, member, {**content, **lie})

    monkeypatch.setattr(views.Views, "_send", lying_send)


@pytest.mark.parametrize(
    "lie",
    [
        {"members": None},
        {"members": {"0": "two\nlines"}},
        {"members": {"0": 5}},
        {"members": {"../0": "cam"}},
        {"members": {"-1": "cam"}},
        {"members": {"9" * 30: "cam"}},
        {"source": "0"},
        {"source": -1},
        {"receivers": 5},
        {"receivers": ["0"]},
        {"note": "x"},
        {"note": {"step": "1"}},
        {"note": {"step": True}},
        {"away": []},
        {"away": {"0": {"step": None}}},
        {"view": 1.5},
        {"ended_by": {"a": 1}},
        {"wanted": "2"},
    ],
    ids=str,
)
def test_a_view_that_cannot_be_ends_the_device(monkeypatch, lie):
    hub = Hub("127.0.0.1", 0, 2, least=1)
    hub.start()
    lies_about(monkeypatch, **lie)
    device = HubFabric(*hub.address, name="cam-1", deadline_s=LIMIT_S)
    with pytest.raises(UntrustedError, match="the hub says what no hub says, and is not asked again: ") as error:
        device.enter(0)
    device.close()
    hub.close()
    assert error.value.exit_code == 3
    assert_one_sentence(str(error.value))


@pytest.mark.parametrize(
    "lie",
    [
        {"seat": "0"},
        {"seat": 2},
        {"seat": -1},
        {"seats": 10**12},
        {"run": "../x\n"},
        {"run": 5},
        {"settings": []},
        {"lifetime": {}},
        {"lifetime": {"life_s": "1", "left_s": 1}},
    ],
    ids=str,
)
def test_a_welcome_that_cannot_be_is_refused(monkeypatch, lie):
    hub = Hub("127.0.0.1", 0, 2)
    honest = connection.Connection.send_text

    def lying_send(self, kind, content, **more):
        honest(self, kind, {**content, **lie} if kind is Kind.WELCOME and "seat" in content else content, **more)

    monkeypatch.setattr(connection.Connection, "send_text", lying_send)
    hub.start()
    with pytest.raises(FabricError) as error:
        HubFabric(*hub.address, name="cam-1", deadline_s=LIMIT_S)
    hub.close()
    assert_one_sentence(str(error.value))


def test_a_hub_that_comes_back_with_other_seats_is_told():
    hub = Hub("127.0.0.1", 0, 2)
    hub.start()
    device = HubFabric(*hub.address, name="cam-1", deadline_s=LIMIT_S)
    hub.close()
    other = Hub("127.0.0.1", hub.address[1], 5)
    other.start()
    with pytest.raises(FabricError, match="the hub has 5 seats, and had 2: start this device again"):
        device.enter(0)
    device.close()
    other.close()


def test_a_refusal_is_told_as_one_line(monkeypatch):
    hub = Hub("127.0.0.1", 0, 1)
    monkeypatch.setattr(
        hub._views, "seat", lambda *_: (_ for _ in ()).throw(FabricError("no\x1b[2J\nerror: " + "x" * 9999))
    )
    hub.start()
    with pytest.raises(FabricError, match="the hub refuses cam-1: no") as error:
        HubFabric(*hub.address, name="cam-1", deadline_s=LIMIT_S)
    hub.close()
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1100


# ---- the state of others ----


def spoiled(change):
    """Return what takes the place of :func:`state_bytes`: a state that is changed on its way."""

    def state_bytes(common):
        tensors = {name: tensor.clone() for name, tensor in common.items()}
        said = json.loads(tensors.pop("state").numpy().tobytes())
        content = change(tensors, said)
        if content is None:
            text = json.dumps(said).encode()
            tensors["state"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
            content = save(tensors)
        return torch.frombuffer(bytearray(content), dtype=torch.uint8)

    return state_bytes


def one_of(tensors, prefix):
    return next(name for name in sorted(tensors) if name.startswith(prefix))


def other_shape(prefix):
    def change(tensors, _):
        name = one_of(tensors, prefix)
        tensors[name] = torch.zeros(*tensors[name].shape, 2)

    return change


def other_type(tensors, _):
    name = one_of(tensors, "model/")
    tensors[name] = tensors[name].double()


def other_name(tensors, _):
    tensors["model/__class__"] = tensors.pop(one_of(tensors, "model/"))


def one_more(name):
    def change(tensors, _):
        tensors[name] = torch.zeros(3, dtype=torch.uint8)

    return change


def says(*path, value):
    def change(_, said):
        place = said[1]
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value

    return change


def lacks(*path):
    def change(_, said):
        place = said[1]
        for part in path[:-1]:
            place = place[part]
        del place[path[-1]]

    return change


STATES = {
    "no state": lambda *_: b"\x80\x04\x95cos\nsystem\n",
    "half": lambda tensors, _: save(tensors)[:-10],
    "another shape": other_shape("model/"),
    "another type": other_type,
    "another name": other_name,
    "a slot of another shape": other_shape("optimizer/"),
    "a slot of no parameter": one_more("optimizer/999999/momentum_buffer"),
    "a slot with a path": one_more("optimizer/0/../../x"),
    "random numbers": one_more("generator/torch"),
    "a residual": one_more("exchange/feedback/residual"),
    "something": one_more("../../etc/passwd"),
    "a learning rate in words": says("optimizer", "param_groups", 0, "lr", value="os:system"),
    "another group": says("optimizer", "param_groups", value=[]),
    "no groups": says("optimizer", value=5),
    "a step in words": says("run", "device", "step", value="1"),
    "a test at no time": says("run", "next_evaluation_s", value=float("nan")),
    "a moment before": says("run", "clock_s", value=-5),
    "no moment": lacks("run", "clock_s"),
    "an unknown sum": says("run", "tally", "__class__", value=1),
    "accounts of nobody": says("run", "carried", "accounts", value=[{"samples": "all"}]),
    "nothing carried": lacks("run", "carried"),
    "deep": says("run", "hooks", value=nested(500)),
    "no run": says("run", value=None),
}


@pytest.fixture
def start_hub(tmp_path):
    with hub_starter(tmp_path / "hub") as start:
        yield start


def comes_second(start_hub, folder, before=lambda: None):
    """Let one device take part, and another come; return that one once it has ended."""
    hub = start_hub(least=1)
    one = Device(hub.address, "cam-1", folder / "one", pause_at=12)
    one.until_paused()
    before()
    one.goes_on.set()
    two = Device(hub.address, "cam-2", folder / "two")
    two.join()
    one.pause_at = 0
    until(lambda: one.error is not None or not one._thread.is_alive(), "the end of the first one")
    return one, two


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_is_none_of_this_run_is_refused(start_hub, tmp_path, monkeypatch, name):
    monkeypatch.setattr(admission, "state_bytes", spoiled(STATES[name]))
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    one, two = comes_second(start_hub, tmp_path)
    assert isinstance(two.error, scadles.errors.ScadlesError), repr(two.error)
    assert two.error.exit_code in (2, 3)
    assert_one_sentence(str(two.error))
    assert one.error is None, "the run goes on"
    assert torch.get_rng_state().shape == before.shape
    assert {path.name for path in tmp_path.iterdir()} <= {"hub", "one", "two"}


def test_the_same_state_unspoiled_is_taken(start_hub, tmp_path, monkeypatch):
    monkeypatch.setattr(admission, "state_bytes", spoiled(lambda *_: None))
    one, two = comes_second(start_hub, tmp_path)
    assert one.error is None
    assert two.error is None


@pytest.mark.parametrize("total", [10**10, MOST_BYTES, 10**12])
def test_a_state_of_very_many_bytes_is_refused_with_its_first_piece(start_hub, tmp_path, monkeypatch, total):
    def pieces(self, receiver):
        yield Frame(Kind.STATE, view=self.view, total=total, length=PIECE_BYTES), bytearray(PIECE_BYTES)

    monkeypatch.setattr(HandOver, "pieces", pieces)
    _, two = comes_second(start_hub, tmp_path)
    assert isinstance(two.error, FabricError), repr(two.error)
    assert "are agreed" in str(two.error)
    assert_one_sentence(str(two.error))


@pytest.mark.parametrize(
    "note",
    [
        {"step": 3},
        {"step": 3, "intake": 5, "device": {}},
        {"step": 3, "intake": {"position": "0", "ledger": {}, "meter": {}}, "device": {"non_finite_steps": 0}},
        {"step": 3, "intake": {"position": -1, "ledger": {}, "meter": {}}, "device": {"non_finite_steps": 0}},
        {"step": 3, "intake": {"position": 0, "ledger": {"x": 1}, "meter": {}}, "device": {"non_finite_steps": 0}},
        {"step": 3, "intake": {"position": 0, "ledger": {}, "meter": {}}, "device": {"non_finite_steps": "x"}},
    ],
    ids=str,
)
def test_a_note_that_no_device_leaves_is_refused(start_hub, tmp_path, monkeypatch, note):
    _, two = comes_second(start_hub, tmp_path, lambda: lies_about(monkeypatch, note=note))
    assert isinstance(two.error, UntrustedError), repr(two.error)
    assert_one_sentence(str(two.error))


def test_notes_of_others_that_are_none_do_not_end_a_run(start_hub, tmp_path, monkeypatch):
    lies_about(monkeypatch, away={"1": {"step": 3, "intake": ["x"]}})
    hub = start_hub(least=1)
    one = Device(hub.address, "cam-1", tmp_path / "one", settings={**SETTINGS, "steps": 5})
    one.join()
    assert one.error is None, repr(one.error)
    assert load((tmp_path / "one" / "model.safetensors").read_bytes())
