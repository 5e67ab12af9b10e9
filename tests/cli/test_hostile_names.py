"""What others call themselves, and why they say that they leave, does nothing on a terminal, in a file or a picture."""

import json
import re

import pytest

import scadles
from hub_devices import LIMIT_S, SETTINGS, Device, begin_together, hub_starter, until
from scadles.fabric.hub import Hub, HubFabric
from scadles.fabric.hub.frames import Kind
from scadles.fabric.hub.members import is_name
from scadles.observe import Membership
from scadles.observe.hub_progress import HubProgress
from scadles.observe.presence import plot_presence
from scadles.security import identity_folder

pytestmark = pytest.mark.timeout(300)

#: Printable, so that a device may be called that.
NAME = "[red]$x_1$|<b>`![a](b)[/red]../../x"
#: What a terminal obeys, what turns writing around, and what ends a line.
REASON = "its disk\x1b[2J\x1b]0;title\x07 is\u202e full\x9b31m\r\n[bold]error: all is well"


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\u202eabc", "a\x9bm", "\u2028", "", "x" * 65, "\ud800", None, 5])
def test_names_that_a_terminal_would_obey_are_none(name):
    assert not is_name(name)


@pytest.mark.parametrize("name", ["..", ".", "/etc/passwd", "../../x", "a/b", "~", "C:\\x", ".ssh"])
def test_a_name_makes_no_path_but_one_folder_of_its_own(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = identity_folder(name)
    assert folder.resolve().parent == tmp_path / "scadles" / "devices"
    assert folder.name not in (".", "..")


def test_the_reason_with_which_a_device_leaves_is_told_as_plain_text(capsys):
    said = []
    with HubProgress(quiet=False) as progress:

        def say(line):
            said.append(line)
            progress.say(line)

        hub = Hub("127.0.0.1", 0, 2, say=say)
        hub.start()
        fabric = HubFabric(*hub.address, name=NAME, deadline_s=LIMIT_S)
        fabric._session.say(Kind.GOODBYE, {"ended_by": REASON, "failure": REASON})
        until(lambda: any("has left" in line for line in said), "its word")
        progress.say(hub.state().line())
        fabric.close()
        hub.close()
    [left] = [line for line in said if "has left" in line]
    assert left.isprintable()
    assert NAME in left
    assert hub.ended_by.isprintable()
    out = capsys.readouterr().out
    assert NAME in out, "as it is, without markup"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out)


def test_names_in_events_and_pictures(tmp_path):
    with hub_starter(tmp_path / "hub") as start:
        hub = start()
        settings = {**SETTINGS, "steps": 6}
        one = Device(hub.address, NAME, tmp_path / "one", settings=settings)
        two = Device(hub.address, "cam-2", tmp_path / "two", settings=settings)
        begin_together(hub)
        for device in (one, two):
            device.join()
            assert device.error is None, repr(device.error)
    assert NAME in one.events(Membership)[0].names.values()
    paths = [path for folder in ("one", "two") for path in (tmp_path / folder).glob("events-*.jsonl")]
    for path in paths:
        assert path.read_bytes().isascii()
        assert all(json.loads(line) for line in path.read_text().splitlines())
    plot_presence(paths, tmp_path / "who.png")
    assert (tmp_path / "who.png").stat().st_size > 1000
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "one", "two", "who.png"}


def test_a_notice_of_others_words_is_one_of_plain_ascii_in_the_events(tmp_path):
    event = scadles.observe.Notice(step=1, time_s=0.0, message=REASON)
    assert event.to_json().isascii()
    assert event.to_json().isprintable()
