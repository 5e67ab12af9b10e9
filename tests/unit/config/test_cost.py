import pytest
import yaml

from scadles.cli.app import main
from scadles.cli.reference import reference
from scadles.config import CostConfig, LinkConfig, QuantityConfig, RunConfig, cost_profiles, load_config
from scadles.config.cost import HEADER, PROFILES
from scadles.errors import ConfigError
from scadles.simulation.collectives import COLLECTIVES


def cost(*overrides, devices=1, **tree):
    return load_config({"steps": 1, "devices": devices, "cost": tree}, overrides).cost


def refusal(*overrides, devices=1, **tree):
    with pytest.raises(ConfigError) as caught:
        cost(*overrides, devices=devices, **tree)
    return str(caught.value)


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Write a profile of one's own into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "mine.yaml").write_text(text)

    return write


class TestProfiles:
    def test_everything_is_free_by_default(self):
        free = load_config({"steps": 1}).cost
        assert free == CostConfig() == cost(profile="free")
        assert (free.compute.step_s, free.compute.sample_s, free.message_bytes) == (0, 0, None)
        assert (free.link.up_bps, free.link.down_bps, free.link.latency_s) == (None, None, 0)

    @pytest.mark.parametrize("name", cost_profiles())
    def test_one_that_ships_says_where_its_numbers_come_from(self, name):
        tree = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())
        assert all(len(tree[key]) > 10 for key in HEADER)
        assert "http" not in tree["source"] + tree["note"]

    @pytest.mark.parametrize("name", cost_profiles())
    def test_one_that_ships_says_all_but_availability(self, name):
        said = yaml.safe_load((PROFILES / f"{name}.yaml").read_text()).keys() - set(HEADER)
        assert said == (set() if name == "free" else {"model", "message_bytes", "collective", "compute", "link"}), (
            "a profile that leaves something open takes it from nowhere"
        )

    @pytest.mark.parametrize("name", sorted(set(cost_profiles()) - {"free"}))
    def test_compression_takes_time_with_one_that_ships(self, name):
        tree = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())
        assert tree["compute"]["coding_s"] > 0
        assert "selection and coding of a compressed gradient" in tree["note"].lower()

    @pytest.mark.parametrize("name", cost_profiles())
    def test_one_that_ships_is_on_the_settings_page(self, name):
        assert name in reference("cost")

    def test_it_fills_in_what_is_left_open(self):
        given = cost("cost.link.latency_s=0.01", profile="k80-resnet152", compute={"step_s": 0.5})
        assert (given.model, given.message_bytes) == ("ResNet152", 240_800_000)
        assert (given.compute.step_s, given.compute.sample_s) == (0.5, 0.15 / 64)
        assert (given.link.up_bps, given.link.latency_s) == (3.44e9, 0.01)

    def test_null_is_something_said(self):
        assert cost(profile="k80-vgg19", message_bytes=None).message_bytes is None

    def test_a_quantity_that_is_said_replaces_the_one_of_the_profile(self):
        up = cost(profile="pi4-wifi", link={"up_bps": {"uniform": [1e6, 2e6]}}).link.up_bps
        assert (up.uniform, up.lognormal) == ((1e6, 2e6), None)

    def test_a_configuration_made_by_hand_is_filled_in_as_well(self):
        given = CostConfig(profile="k80-vgg19", link=LinkConfig(latency_s=0.01))
        assert (given.link.up_bps, given.link.latency_s) == (5.9462e9, 0.01)
        assert RunConfig(steps=1, cost=given).cost == given

    @pytest.mark.parametrize("name", cost_profiles())
    def test_out_equals_in(self, name):
        config = load_config({"steps": 1, "cost": {"profile": name}})
        assert load_config(yaml.safe_load(config.to_yaml())) == config
        assert load_config(config) == config
        assert config.cost.profile == name

    def test_ones_own_is_found_by_its_path(self, profile):
        profile("source: mine\ncompute: {step_s: 0.25}\navailability: {windows_s: [[0, 50]]}\n")
        given = cost(profile="mine.yaml")
        assert given.compute.step_s == 0.25
        assert given.availability.windows_s == ((0, 50),)

    def test_a_run_folder_needs_no_profile(self, profile, tmp_path):
        profile("compute: {step_s: 0.25}\n")
        config = load_config({"steps": 1, "cost": {"profile": "mine.yaml"}})
        (tmp_path / "mine.yaml").unlink()
        assert load_config(yaml.safe_load(config.to_yaml())) == config

    def test_an_unknown_one_gets_a_suggestion(self):
        said = refusal(profile="k80-resnet")
        assert said == "cost.profile = 'k80-resnet': unknown profile, and no PATH.yaml; did you mean k80-resnet152?"

    def test_an_unknown_one_ends_the_command(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "c.yaml").write_text("steps: 1\ncost: {profile: k81}\n")
        monkeypatch.setattr("sys.argv", ["scadles", "train", "c.yaml"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert "cost.profile = 'k81': unknown profile" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("compute: {stepp_s: 1}", "mine.yaml: compute.stepp_s: unknown setting; did you mean step_s?"),
            ("link: {up_bps: -5}", "mine.yaml: link.up_bps = -5: input should be greater than 0"),
            ("colective: ring", "mine.yaml: colective: unknown setting; did you mean collective?"),
            ("link: {latency_s: {normal: [1, -1]}}", "mine.yaml: link.latency_s.normal.1 = -1: input should be"),
            ("profile: free", "mine.yaml: profile: a profile cannot build on another one"),
            ("just words", "mine.yaml must hold settings (key: value), not str"),
        ],
    )
    def test_a_mistake_in_a_file_is_named_with_the_file(self, profile, text, message):
        profile(text)
        assert refusal(profile="mine.yaml").startswith(message)

    def test_all_mistakes_in_a_file_are_named(self, profile):
        profile("link: {up_bps: 0}\nmessage_bytes: -1\n")
        assert sorted(line.split(" =")[0] for line in refusal(profile="mine.yaml").splitlines()) == [
            "mine.yaml: link.up_bps",
            "mine.yaml: message_bytes",
        ]

    def test_a_missing_file_is_named(self):
        assert refusal(profile="nowhere.yaml") == "cannot read the cost profile nowhere.yaml: No such file or directory"


class TestQuantities:
    @pytest.mark.parametrize("written", ["5.0e9", "5e9", "5.0e+9", "5000000000"])
    def test_a_number_in_any_notation(self, written):
        assert cost(f"cost.link.up_bps={written}").link.up_bps == 5e9
        assert cost(f"cost.link.up_bps=[{written}, 3]", devices=2).link.up_bps == (5e9, 3)
        assert cost(f"cost.link.up_bps.uniform=[1, {written}]").link.up_bps == QuantityConfig(uniform=(1, 5e9))

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("link.up_bps=-5", "link.up_bps = -5: input should be greater than 0"),
            ("link.down_bps=0", "link.down_bps = 0: input should be greater than 0"),
            ("link.up_bps=.inf", "link.up_bps = inf: input should be a finite number"),
            ("link.up_bps=fast", "link.up_bps = 'fast': input should be a valid number"),
            ("link.latency_s=-1", "link.latency_s = -1: input should be greater than or equal to 0"),
            ("link.latency_s=null", "link.latency_s = None: input should be a valid number"),
            ("compute.sample_s=.nan", "compute.sample_s = nan: input should be a finite number"),
            ("link.up_bps=[-1]", "link.up_bps.0 = -1: input should be greater than 0"),
            ("link.up_bps.uniforn=[1, 2]", "link.up_bps.uniforn: unknown setting; did you mean uniform?"),
            ("link.up_bps.uniform=[2, 1]", "link.up_bps: uniform [2.0, 1.0] must be [low, high]"),
            ("link.up_bps.normal=[0, 1]", "link.up_bps.normal.0 = 0: input should be greater than 0"),
            ("link.up_bps.lognormal=[1, 11]", "link.up_bps.lognormal.1 = 11: input should be less than or equal to 10"),
            ("link.up_bps.per=step", "link.up_bps: give one of value, uniform, normal and lognormal (null takes"),
            (
                "link.up_bps={value: 1, normal: [1, 1]}",
                "link.up_bps: give one of value, uniform, normal and lognormal, not value and normal",
            ),
            ("link.up_bps={value: 1, times_s: [0, 1], factors: [1]}", "link.up_bps: 2 times_s and 1 factors"),
            ("link.up_bps={value: 1, times_s: [1], factors: [1]}", "link.up_bps: times_s [1.0] must ascend from 0"),
            ("link.up_bps={value: 1, times_s: [0, 0], factors: [1, 1]}", "link.up_bps: times_s [0.0, 0.0] must ascend"),
            (
                "link.up_bps={value: 1, times_s: [0, 5], factors: [1, 2], period_s: 5}",
                "link.up_bps: period_s = 5 needs times_s that begin below it",
            ),
            ("collective=rings", "collective = 'rings': input should be 'ring', 'tree', 'all-gather' or 'star'"),
            ("message_bytes=-1", "message_bytes = -1: input should be greater than or equal to 0"),
        ],
    )
    def test_what_cannot_be_is_named_with_what_is_allowed(self, override, message):
        said = refusal(f"cost.{override}")
        assert said.startswith(f"cost.{message}")
        assert "\n" not in said

    @pytest.mark.parametrize("name", ["compute.step_s", "compute.sample_s", "link.up_bps", "link.latency_s"])
    def test_a_list_has_one_entry_for_each_device(self, name):
        said = refusal(f"cost.{name}=[1, 2, 3]", devices=2)
        assert said == f"cost.{name} has 3 entries and devices is 2: give one for each device"
        cost(f"cost.{name}=[1, 2]", devices=2)

    def test_every_collective_there_is_can_be_chosen(self):
        assert [cost(collective=name).collective for name in COLLECTIVES] == list(COLLECTIVES)


class TestAvailability:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("{on_s: 3}", ": on_s and off_s belong together"),
            ("{on_s: 3, off_s: 1, windows_s: [[0, 1]]}", ": give windows_s, or on_s and off_s to draw them, not both"),
            ("{windows_s: [[5, 1]]}", ": windows_s [[5.0, 1.0]] must be [from, to] in ascending order"),
            ("{windows_s: [[0, 5], [5, 6]]}", ": windows_s [[0.0, 5.0], [5.0, 6.0]] must be [from, to] in ascending"),
            ("{windows_s: []}", ".windows_s = []: tuple should have at least 1 item"),
            ("{windows_s: [[0, 5]], period_s: 4}", ": windows_s reach until 5, beyond period_s = 4"),
            ("{windows_s: [[4, 5]], period_s: 4}", ": period_s = 4 needs windows_s that begin below it"),
            ("{period_s: 4}", ": period_s = 4 needs windows_s that begin below it"),
            ("{on_s: 0, off_s: 1}", ".on_s = 0: input should be greater than 0"),
            ("{window_s: [[0, 1]]}", ".window_s: unknown setting; did you mean windows_s?"),
            ("[{}, {onn_s: 3}]", ".1.onn_s: unknown setting; did you mean on_s?"),
            ("[{}, {on_s: 3}]", ".1: on_s and off_s belong together"),
            ("[{}]", " has 1 entries and devices is 2: give one for each device"),
        ],
    )
    def test_what_cannot_be_is_named_with_what_is_allowed(self, given, message):
        said = refusal(f"cost.availability={given}", devices=2)
        assert said.startswith(f"cost.availability{message}")
        assert "\n" not in said


def test_the_settings_page_explains_quantities_once():
    page = reference("cost")
    assert page.count("## cost.compute.step_s, cost.compute.sample_s, cost.compute.coding_s, cost.link.up_bps") == 1
    assert page.count(".lognormal`") == 1
    assert "number (above 0) or list of number (above 0) or section" in page
    assert reference("cost.availability").startswith("## cost.availability\n")
