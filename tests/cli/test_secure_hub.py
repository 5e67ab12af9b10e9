"""``scadles hub --secure``, ``scadles join --token`` and ``scadles devices`` as processes."""

import json
import re
import stat

import pytest

from other_authority import OtherAuthority
from scadles.observe import Notice, Step

pytestmark = pytest.mark.timeout(300)
SETTINGS = {
    "devices": 3,
    "steps": 30,
    "picture": False,
    "stream": {"rates": 40},
    "clock": {"speed": 20},
    "checkpoint": {"every_steps": 5},
    "fabric": {"min_devices": 1},
}
OWN = ["--cert", "c", "--key", "k", "--ca", "a"]
EXPECTED = r"scadles join 127\.0\.0\.1:(\d+) --name NAME --token ([0-9a-f]{32}) --ca-hash (sha256:[0-9a-f]{64})\n"


class Fleet:
    def __init__(self, folder, start, write_config, npz):
        self._folder, self._start = folder, start
        self._config = write_config(folder / "c.yaml", data={"dataset": f"npz:{npz}"}, **SETTINGS)
        self.port = 0

    def hub(self, *arguments, secure=True):
        fixed = ("-m", "scadles", "hub", self._config, "--listen", f"127.0.0.1:{self.port}", "--out", "hub")
        hub = self._start(self._folder, *fixed, *(["--secure"] if secure else []), *arguments, PYTHONUNBUFFERED="1")
        found = hub.until(lambda: re.search(r" in hub on 127\.0\.0\.1:(\d+)\n", hub.out), "its address")
        self.port = int(found[1])
        return hub

    def how_to_join(self, hub):
        found = hub.until(lambda: re.search(EXPECTED, hub.out), "how to join")
        return ["--token", found[2], "--ca-hash", found[3]]

    def join(self, name, *arguments, has_identity=True):
        place = [f"127.0.0.1:{self.port}", "--name", name, "--out", name, "--quiet", "--allow", "data.dataset=npz:*"]
        place += ["--identity", f"id-{name}"] if has_identity else []
        return self._start(self._folder, "-m", "scadles", "join", *place, *arguments)


@pytest.fixture
def fleet(tmp_path, start, write_config, npz):
    return Fleet(tmp_path, start, write_config, npz)


def test_from_the_first_start_to_a_device_that_is_turned_out(fleet, finding, command, tmp_path):
    hub = fleet.hub(*["--set", "steps=100000"])
    line = fleet.how_to_join(hub)
    devices = {name: fleet.join(name, *line) for name in ("cam-1", "cam-2")}
    hub.until(lambda: hub.out.count("takes part") == 2, "both")
    code, out, _ = command("devices", tmp_path / "hub")
    assert code == 0
    assert re.findall(r"(cam-\d) +(\w+) +20", out) == [("cam-1", "enrolled"), ("cam-2", "enrolled")]
    code, out, _ = command("devices", tmp_path / "hub", "revoke", "cam-2")
    assert (code, "cam-2 is revoked" in out) == (0, True)
    assert devices["cam-2"].wait() == 3
    assert "error: the hub refuses cam-2: cam-2 has been revoked: at the hub, scadles" in devices["cam-2"].err
    assert "Traceback" not in devices["cam-2"].err
    again = fleet.join("cam-2")
    assert again.wait() == 3
    assert "cam-2 has been revoked" in again.err
    code, out, _ = command("devices", tmp_path / "hub", "readmit", "cam-2")
    assert (code, "cam-2 is readmitted" in out) == (0, True)
    hub.process.kill()
    hub.process.wait()
    restarted = fleet.hub(*["--set", "steps=100000"])
    restarted.until(lambda: "a token for more devices: scadles devices hub token" in restarted.out, "how more join")
    assert not re.search(EXPECTED, restarted.out)
    back = fleet.join("cam-2", *line)  # as a unit of systemd has it, which brings the token with every start
    restarted.until(lambda: re.search(r"cam-2 \(device \d\) takes part", restarted.out), "its return")
    assert devices["cam-1"].process.poll() is None, "it has found the hub again"
    for kept in (*tmp_path.glob("cam-*/**/*"), *tmp_path.glob("hub/*")):
        if kept.is_file():
            content = kept.read_bytes()
            assert line[1].encode() not in content, kept
            assert b"PRIVATE" not in content, kept
    assert stat.S_IMODE((tmp_path / "id-cam-1/device.pem").stat().st_mode) == 0o600
    for device in (back, devices["cam-1"], restarted):
        device.kill_all()
    number = int(re.search(r"cam-1 \(device (\d)\) takes part", hub.out)[1])
    steps = [step.step for step in finding(tmp_path / "cam-1", 3).events(number, Step)]
    assert steps == sorted(set(steps))


def test_who_is_refused_gets_one_sentence_and_code_3(fleet, command, tmp_path):
    hub = fleet.hub()
    line = fleet.how_to_join(hub)
    wrong_hash = ["--ca-hash", "sha256:" + "0" * 64]
    attempts = {
        "has another authority": fleet.join("cam-1", "--token", "T", *wrong_hash),
        "its token is not known here": fleet.join("cam-2", "--token", "T", *line[2:]),
        "this hub speaks TLS": fleet.join("cam-3", "--insecure"),
    }
    for sentence, device in attempts.items():
        assert device.wait() == 3, device.err
        [said] = device.err.splitlines()
        assert sentence in said
    hub.until(lambda: hub.out.count("was refused") >= 2, "what the hub says")
    assert hub.process.poll() is None
    code, out, _ = command("devices", tmp_path / "hub", "token", "--uses", "2", "--hours", "1")
    assert code == 0
    assert line[3] in out
    hub.kill_all()


def test_certificates_of_an_authority_that_exists_already(fleet, command, tmp_path):
    authority = OtherAuthority(tmp_path / "other")

    def arguments(files):
        return [text for name, path in files._asdict().items() for text in (f"--{name}", str(path))]

    hub = fleet.hub("--set", "steps=100000", *arguments(authority.hub()), secure=False)
    hub.until(lambda: "devices join with --cert, --key and --ca" in hub.out, "how devices join")
    devices = {}
    for name in ("cam-1", "cam-2"):
        devices[name] = fleet.join(name, *arguments(authority.device(name)), has_identity=False)
    hub.until(lambda: hub.out.count("takes part") == 2, "both")
    assert command("devices", tmp_path / "hub", "revoke", "cam-2")[0] == 0
    assert devices["cam-2"].wait() == 3
    assert "error: the hub refuses cam-2: cam-2 has been revoked" in devices["cam-2"].err
    assert command("devices", tmp_path / "hub", "revoke", "cam-3")[0] == 0, "it has never been here"
    code, out, _ = command("devices", tmp_path / "hub")
    assert code == 0
    found = re.findall(r"(cam-\d) +(\w+) +(20|-)", out)
    assert found == [("cam-1", "enrolled", "20"), ("cam-2", "revoked", "20"), ("cam-3", "revoked", "-")]
    code, _, err = command("devices", tmp_path / "hub", "token")
    assert (code, "hub is of a hub with --cert: it enrols nobody" in err) == (2, True)
    with_a_token = fleet.join("cam-4", "--token", "T", "--ca-hash", "sha256:" + "0" * 64)
    assert with_a_token.wait() == 3
    assert "this hub enrols nobody: join with --cert, --key and --ca" in with_a_token.err
    assert devices["cam-1"].process.poll() is None
    for one in (devices["cam-1"], hub):
        one.kill_all()


def test_who_has_not_been_enrolled_is_told_how(command, tmp_path):
    code, _, err = command("join", "192.0.2.1:29400", "--name", "cam-1", "--identity", tmp_path / "none")
    assert code == 2
    assert "cam-1 has not been enrolled by a hub" in err
    assert "give --token and --ca-hash" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["join", "h:1", "--name", "x", "--token", "T"], "--token and --ca-hash belong together"),
        (["join", "h:1", "--name", "x", "--ca-hash", "H"], "--token and --ca-hash belong together"),
        (
            ["join", "h:1", "--name", "x", "--token", "T", "--ca-hash", "sha256:9e1b"],
            "64 digits of 0-9a-f; copy all of it",
        ),
        (["join", "h:1", "--name", "x", "--token", "T", "--ca-hash", "H", "--insecure"], "and to no --insecure"),
        (["join", "h:1", "--name", "x", "--cert", "c", "--key", "k"], "--cert, --key and --ca belong together"),
        (
            ["join", "h:1", "--name", "x", *OWN, "--insecure"],
            "--cert, --key and --ca belong together, and to no --inse",
        ),
        (
            ["join", "h:1", "--name", "x", *OWN, "--token", "T", "--ca-hash", "H"],
            "leave --token, --ca-hash and --ident",
        ),
        (["join", "h:1", "--name", "x", *OWN, "--identity", "i"], "leave --token, --ca-hash and --identity out"),
        (["join", "h:1", "--name", "x", *OWN], "cert = c: it cannot be read (No such file or directory)"),
        (["devices", "nowhere"], "nowhere has no authority: the first start of scadles hub makes one"),
    ],
)
def test_mistakes(command, arguments, said):
    code, _, err = command(*arguments)
    assert code == 2
    assert said in err


def test_more_mistakes(command, fleet, tmp_path):
    from scadles.security import Guard

    Guard(tmp_path / "hub", "run")
    for arguments in (["revoke"], ["list", "cam-1"]):
        code, _, err = command("devices", tmp_path / "hub", *arguments)
        assert (code, "revoke and readmit take the name of one device" in err) == (2, True)
    assert "no device is called cam-1; none is enrolled" in command("devices", tmp_path / "hub", "revoke", "cam-1")[2]
    code, _, err = command("hub", tmp_path / "c.yaml", "--secure", "--insecure")
    assert (code, "give one of them" in err) == (2, True)
    code, _, err = command("hub", tmp_path / "c.yaml", *OWN, "--out", tmp_path / "other")
    assert (code, "cert = c: it cannot be read (No such file or directory)" in err) == (2, True)
    code, _, err = command("hub", tmp_path / "c.yaml", *OWN[:4])
    assert (code, "--cert, --key and --ca belong together" in err) == (2, True)


PLAIN_TEXT = "what travels is neither encrypted nor authenticated (--insecure)"


def test_plain_text_beyond_this_machine_is_warned_of(start, write_config, npz, tmp_path):
    config = write_config(tmp_path / "c.yaml", data={"dataset": f"npz:{npz}"}, **SETTINGS)
    place = ("hub", config, "--listen", "0.0.0.0:0", "--out", "hub", "--insecure", "--quiet")
    hub = start(tmp_path, "-m", "scadles", *place, PYTHONUNBUFFERED="1")
    hub.until(lambda: f"warning: {PLAIN_TEXT}" in hub.err, "it")
    assert not (tmp_path / "hub/authority").exists()
    hub.kill_all()


def test_plain_text_is_in_events_summary_and_comparison(start, write_config, npz, tmp_path, command, finding):
    """Of each device, also of one on the hub's own machine: its sums are everybody's."""
    config = write_config(tmp_path / "c.yaml", data={"dataset": f"npz:{npz}"}, **SETTINGS | {"steps": 3})
    place = ("hub", config, "--listen", "0.0.0.0:0", "--out", "hub", "--insecure")
    hub = start(tmp_path, "-m", "scadles", *place, PYTHONUNBUFFERED="1")
    port = hub.until(lambda: re.search(r" on 0\.0\.0\.0:(\d+)\n", hub.out), "its address")[1]
    place = ("join", f"127.0.0.1:{port}", "--name", "cam-1", "--out", "cam-1", "--allow", f"data.dataset=npz:{npz}")
    device = start(tmp_path, "-m", "scadles", *place)
    assert device.wait() == 0
    assert hub.wait() == 0
    assert device.err.count(PLAIN_TEXT) == 1
    [notice] = finding(tmp_path / "cam-1", 1).events(0, Notice)
    assert notice.message.startswith(PLAIN_TEXT)
    assert json.loads((tmp_path / "cam-1/summary.json").read_text())["insecure"] is True
    code, out, err = command("compare", tmp_path / "cam-1")
    assert code == 0
    assert "cam-1: what travelled was neither encrypted nor authenticated (--insecure)" in " ".join((out + err).split())


def test_tls_is_the_default_beyond_this_machine(start, write_config, npz, tmp_path):
    config = write_config(tmp_path / "c.yaml", data={"dataset": f"npz:{npz}"}, **SETTINGS)
    place = ("hub", config, "--listen", "0.0.0.0:0", "--out", "hub")
    hub = start(tmp_path, "-m", "scadles", *place, PYTHONUNBUFFERED="1")
    hub.until(lambda: re.search(r"on each device: scadles join \S+:\d+ --name NAME --token \w{32}", hub.out), "it")
    assert stat.S_IMODE((tmp_path / "hub/authority").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "hub/authority/ca.key").stat().st_mode) == 0o600
    hub.kill_all()
