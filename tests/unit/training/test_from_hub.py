"""What a device takes from its hub: settings, but no code, file or address that it does not allow by name."""

import pytest
import yaml

from scadles.config import load_config
from scadles.errors import ConfigError, UntrustedError
from scadles.training.from_hub import allowed_in, allowing, parse_allowed, take_settings
from scadles.training.hub import own_settings

SETTINGS = load_config({"steps": 3, "devices": 2, "fabric": {"backend": "hub"}}).model_dump(mode="json")


def take(said, own=(), allow=(), **more):
    return take_settings({**SETTINGS, **said}, dict(own), parse_allowed(allow), 2, **more)


def test_plain_settings_are_taken_and_told():
    taken = take({"model": "cnn"}, {"stream": {"rates": 7}})
    assert (taken.settings.model, taken.settings.stream.rates) == ("cnn", 7)
    count = str(taken).split()[1]
    assert str(taken) == f"takes {count} settings from the hub, none of which names code, a file or an address"
    assert int(count) > 80
    written = yaml.safe_load(taken.to_yaml())
    assert written["model"] == "cnn"
    assert "rates" not in written["stream"], "that is the device's own"


@pytest.mark.parametrize(
    ("said", "allow"),
    [
        ({"model": "mine.models:Net"}, "model=mine.models:Net"),
        ({"model": "mine.models:Net"}, "model=mine.models:*"),
        ({"model": "mine.models:Net"}, "model=mine.*"),
        ({"data": {"dataset": "npz:/data/a/b.npz"}}, "data.dataset=npz:/data/*"),
        ({"stream": {"url": "mqtt://10.0.0.5/camera/{device}"}}, "stream.url=mqtt://10.0.0.5/*"),
        ({"stream": {"url": "kafka://h/t?sasl.password=env:K"}}, "stream.url=kafka://h/t?sasl.password=env:K"),
    ],
)
def test_what_is_allowed_is_taken_and_named(said, allow):
    taken = take(said, allow=[allow])
    assert len(taken.named) == 1
    assert f"among them, as this device allows: {taken.named[0][0]} = '{taken.named[0][1]}'" in str(taken)
    assert taken.to_yaml().startswith("# takes ")


@pytest.mark.parametrize(
    ("said", "allow"),
    [
        ({"model": "mine.models:Net"}, []),
        ({"model": "mine.models:Net"}, ["model=mine.models:Ne", "model=mine.models"]),
        ({"model": "mine.models:Net"}, ["task.kind=mine.models:Net"]),
        ({"data": {"dataset": "npz:/data/../etc/passwd"}}, ["data.dataset=npz:/data/*"]),
        ({"data": {"dataset": "npz:/data/.."}}, ["data.dataset=npz:/data/*"]),
        ({"stream": {"url": "kafka://h/t?sasl.password=file:/etc/shadow"}}, ["stream.url=kafka://h/*"]),
        ({"stream": {"url": "kafka://h/t&ssl.key.location=/k"}}, ["stream.url=kafka://h/*"]),
    ],
)
def test_what_is_not_allowed_is_refused(said, allow):
    with pytest.raises(UntrustedError, match=r"^the hub names .* on this device, which this device does not allow: "):
        take(said, allow=allow)


def test_the_refusal_names_setting_value_and_the_options_to_add():
    with pytest.raises(UntrustedError) as error:
        take({"model": "os:system", "data": {"dataset": "npz:my file.npz"}})
    assert error.value.exit_code == 3
    assert str(error.value) == (
        "the hub names code and a file or code on this device, which this device does not allow: model = 'os:system' "
        "and data.dataset = 'npz:my file.npz'; if you trust it with that, start this device with --allow "
        "model=os:system --allow 'data.dataset=npz:my file.npz'"
    )


@pytest.mark.parametrize("value", ["a:b\nrm -rf /", "a:\x1b[31m", "a:\u202e", "a:" + "x" * 10_000])
def test_what_nobody_would_write_is_not_offered_as_an_option(value):
    with pytest.raises(UntrustedError, match="nobody writes such a name") as error:
        take({"model": value})
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_a_secret_in_an_address_is_not_told():
    with pytest.raises(UntrustedError) as error:
        take({"stream": {"url": "kafka://host/t?sasl.password=sesame"}})
    assert "sesame" not in str(error.value)


def test_what_a_device_says_itself_is_its_own():
    own = {"data": {"dataset": "npz:mine.npz"}, "stream": {"url": "mqtt://h/t"}}
    taken = take({"data": {"dataset": "npz:/etc/passwd"}, "stream": {"url": "kafka://evil/t"}}, own)
    assert (taken.settings.data.dataset, taken.settings.stream.url) == ("npz:mine.npz", "mqtt://h/t")
    assert not taken.named


def test_a_network_of_ones_own_needs_no_allowance():
    assert take({"model": "mine:Net"}, has_model=True).settings.model == "mine:Net"
    with pytest.raises(UntrustedError, match=r"task\.loss = 'os:system'"):
        take({"model": "mine:Net", "task": {"loss": "os:system"}}, has_model=True)


def test_a_file_is_not_even_looked_at(tmp_path):
    profile = tmp_path / "profile.yaml"
    profile.mkdir()  # reading it would be another error
    with pytest.raises(UntrustedError, match=r"names a file .* cost\.profile = "):
        take({"cost": {"profile": str(profile)}})


def test_depth_is_bounded():
    tree = 1
    for _ in range(900):
        tree = {"a": tree}
    with pytest.raises(UntrustedError, match="more than 32 levels"):
        take(tree)
    for _ in range(900):
        tree = [tree]
    with pytest.raises(UntrustedError, match="more than 32 levels"):
        take({"x": tree})


@pytest.mark.parametrize("name", ["a\nerror: all is well", "\x1b[2J", "x" * 1000])
def test_names_that_no_setting_has_are_not_even_told(name):
    for tree in ({name: 1}, {"task": {name: {}}}, {"x": [{name: 1}]}):
        with pytest.raises(UntrustedError, match="names that no setting has: they are not read"):
            take(tree)


def test_settings_that_are_none_are_refused_in_words():
    with pytest.raises(ConfigError, match="model = 5: input should be a valid string"):
        take({"model": 5})
    with pytest.raises(ConfigError, match="seed"):
        take({"seed": {"a": []}})


def test_a_launcher_allows_what_its_own_settings_name():
    settings = load_config({"steps": 1, "model": "a:b", "task": {"metrics": ["c:d", "accuracy"]}})
    assert allowing(settings) == {"allow": {"model": ["a:b"], "task.metrics": ["c:d"]}}
    assert allowed_in(own_settings(allowing(settings))["allow"]) == {"model": ["a:b"], "task.metrics": ["c:d"]}


@pytest.mark.parametrize(
    ("allow", "said"),
    [
        ("everything", "allow: write it as a mapping"),
        ({"steps": "5"}, r"allow\.steps: no setting that names code, a file or an address; there are"),
        ({"modle": "a:b"}, r"allow\.modle: .*did you mean model\?"),
        ({"model": 5}, r"allow\.model = 5: say a text"),
        ({"model": [""]}, r"allow\.model = \[''\]: say a text"),
    ],
)
def test_what_cannot_be_allowed(allow, said):
    with pytest.raises(ConfigError, match=said):
        allowed_in(allow)


@pytest.mark.parametrize("option", ["model", "model=", "=a:b", ""])
def test_options_that_are_none(option):
    with pytest.raises(ConfigError, match="write it as key=value"):
        parse_allowed([option])
