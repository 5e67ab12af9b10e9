"""Devices that join, leave and come back: through a real hub and simulated, by one script of step numbers.

In the real run, devices are threads with a virtual clock each; whoever comes is admitted after the step that the script
names, because those who are there wait with that step's messages until it stands at the hub's door. The simulation is
given the moments at which these steps end, as windows of ``cost.availability``.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from threading import Event

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import scadles
from scadles.clock import wall_seconds
from scadles.config import load_config
from scadles.exchange.compression import RATIOS
from scadles.exchange.reduction import VectorOwner
from scadles.fabric.hub import Hub, HubFabric, members
from scadles.observe import Divergence, Evaluation, Finished, RunFolder, Step, events_path, read_events
from scadles.simulation import simulate
from scripted_ratio import follow_the_script

LIMIT_S = 60.0
DEVICES, STEPS = 4, 14
# Of each device: the first and the last step of each time that it counts. It comes before the first, and follows in the
# step before, unless nobody is there yet. Device 0 tells the time and gives its state
# to others, until another one does.
SCRIPTS = {
    "leaving": {0: [(1, 7), (11, STEPS)], 1: [(1, 3), (7, STEPS)], 2: [(1, STEPS)], 3: [(8, 12)]},
    "killed": {0: [(1, 4), (8, STEPS)], 1: [(1, STEPS)], 2: [(1, 8), (11, STEPS)], 3: [(6, STEPS)]},
    # a step that is void ends together with the next one, for which all have their batch already
    "killed, sharing": {0: [(1, 4), (9, STEPS)], 1: [(1, STEPS)], 2: [(1, 8), (13, STEPS)], 3: [(9, STEPS)]},
}
# where the learning rate goes by how noisy gradients are
ROUNDING_OF_RATES = {"lr": {"rel": 1e-6}, "lr_scale": {"rel": 1e-6}}
KILLED_AFTER_S = 1e-3  # the beginning of a step, which takes longer
# what rounding of the model may change
ROUNDING = {
    "loss": {"rel": 1e-4},
    "accuracy": {"abs": 0.006},
    "per_label": {"abs": 0.06},
    "correct": {"abs": 1},
    "noise_scale": {"rel": 0.01},
    "low": {"rel": 0.01},
    "high": {"rel": 0.01},
}
ALWAYS_S = 1e9


@pytest.fixture(scope="module", autouse=True)
def _script():
    """Let ratios change by a script: what is measured differs from machine to machine."""
    with pytest.MonkeyPatch.context() as patch:
        follow_the_script(patch.setattr)
        yield


CONFIGS = {
    "dense": {"model": "mlp"},
    "momentum": {"model": "mlp", "optimizer": {"momentum": 0.9, "lr": 0.02}, "buffer": {"policy": "persistence"}},
    "adam, persistence": {
        "model": "mlp",
        "optimizer": {"name": "adam", "lr": 0.003},
        "buffer": {"policy": "persistence"},
        "batch": {"max": 24},
    },
    "fixed batches, truncation": {
        "method": "ddl",
        "model": "mlp",
        "batch": {"size": 16},
        "buffer": {"policy": "truncation"},
    },
    "batchnorm, poisson": {"model": "smooth_cnn:smooth_cnn", "batch": {"min": 4}, "stream": {"profile": "poisson"}},
    "batchnorm local": {"model": "smooth_cnn:smooth_cnn", "batch": {"min": 4}, "aggregation": {"batchnorm": "local"}},
    "injection": {"model": "mlp", "injection": {"alpha": 0.5, "beta": 0.25}},
    "compressed": {"model": "mlp", "compression": {"ratio": 0.1, "gate": "always"}},
    "compressed, by norm, with momentum": {
        "model": "mlp",
        "optimizer": {"momentum": 0},
        "compression": {"ratio": 0.1, "gate": "norm", "delta": 0.5, "momentum": 0.9, "values": "float32"},
        "buffer": {"policy": "persistence"},
        "data": {"partition": "dirichlet", "alpha": 0.2},
    },
    "compressed, each ratio in turn": {"model": "mlp", "compression": {"ratio": "auto"}},
    "compressed, each ratio in turn, gathered": {
        "model": "mlp",
        "compression": {"ratio": "auto", "values": "float32", "reduction": "gather"},
    },
    "compressed, gathered": {
        "model": "mlp",
        "compression": {"ratio": 0.1, "gate": "always", "values": "bfloat16", "reduction": "gather"},
    },
    "normalised by what came": {"model": "mlp", "data": {"normalize": "running"}},
    "held out": {"model": "mlp", "evaluation": {"every_s": 1.5, "on": "holdout", "holdout_every": 4}},
    "test then train": {"model": "mlp", "evaluation": {"every_s": 1.5, "on": "stream", "window_s": 6}},
    "normalised by what came, test then train": {
        "model": "mlp",
        "data": {"normalize": "running"},
        "evaluation": {"every_s": 1.5, "on": "stream", "window_s": 6},
    },
    "late labels": {
        "model": "mlp",
        "buffer": {"policy": "persistence"},
        "stream": {"labels": {"url": "replay://?delay_s=1.5", "wait_s": 1}},
    },
    "rate auto": {
        "model": "mlp",
        "batch": {"min": 4},
        "optimizer": {"lr": 0.005, "momentum": 0.667},
        "lr": {"rate": "auto"},
    },
    "adascale": {"model": "mlp", "batch": {"min": 4, "size": 4}, "lr": {"scaling": "adascale", "milestones": [200]}},
    "window auto": {"model": "mlp", "batch": {"min": 4, "window": "auto", "step_cost_s": 0.05}},
    "diverging": {"model": "mlp", "optimizer": {"lr": 20}, "lr": {"guard": True}},
    "diverging, compressed": {
        "model": "mlp",
        "optimizer": {"lr": 10},
        "lr": {"guard": True},
        "compression": {"ratio": 0.1, "gate": "always", "values": "float32"},
    },
    "skewed": {"model": "mlp", "data": {"partition": "dirichlet", "alpha": 0.2, "size_spread": 0.5}},
}
CASES = [(name, script) for name in CONFIGS for script in ("leaving", "killed") if name != "injection"]
CASES.append(("injection", "killed, sharing"))


def make_config(name, steps=STEPS, **more):
    given = {"method": "scadles", "devices": DEVICES, "seed": 3, "steps": steps, "picture": False}
    given |= {"target_accuracy": None, "stop_at_target": False}
    given |= {"checkpoint": {"every_steps": 4}, "evaluation": {"every_s": 1.5}, "fabric": {"backend": "hub"}}
    own = CONFIGS[name]
    stream = {"rates": [40, 12, 21.5, 30]} | own.get("stream", {})
    return load_config(given | own | {"stream": stream} | more)


def comes_after(first):
    """The step after which a device comes, to follow in the next one and to count in its first."""
    return max(0, first - 2)


class Stage:
    """A hub, and who is to come when; ``least`` devices take a step, None: as many as there are."""

    def __init__(self, script, least=None):
        self._coming, self._near = {}, {}
        self._least = least
        for device, times in script.items():
            for place, (first, _) in enumerate(times):
                if not place or times[place - 1][1] < first - 1:
                    self._coming.setdefault(comes_after(first), []).append(f"device-{device}")
                    self._near.setdefault(first - 1, []).append(f"device-{device}")
        self._open = {step: Event() for step in self._coming}
        self._gathered = []
        self.hub = Hub("127.0.0.1", 0, len(script), least=len(self._coming[0]), fold=VectorOwner().fold)
        self._open[0].set()
        self.hub.start()

    def before(self, step):
        """Called on each device that is there, once it has done its part of a step but for its messages."""
        self._gathered.append(step)
        self.hub.need(self._least or 1)
        if step in self._coming:
            self._open[step].set()
            wait_for(lambda: set(self._coming[step]) <= set(self.hub.state().waiting), self._coming[step])
        if step in self._near:
            members = self.hub._views.members
            wait_for(
                lambda: set(self._near[step]) <= {one.name for one in list(members.values()) if one.is_near},
                f"{self._near[step]} to be near",
            )

    def leave(self, last):
        """Go after a step; where others then wait for more, once they have their batch of the next one."""
        if self._least is not None:
            wait_for(lambda: self._gathered.count(last + 1) == self._least - 1, "all others to have a batch")

    def enter(self, device, first):
        """Come when those who are there take the step before; where that was one's own, when they wait for more."""
        if comes_after(first) in self._open:
            assert self._open[comes_after(first)].wait(LIMIT_S)
        else:
            wait_for(lambda: len(self.hub.state().waiting) == self._least - 1, "all others")
        return Actor(self, device)


class KilledError(BaseException):
    """Ends a device without another word."""


class Actor(HubFabric):
    """A device's end of the hub that waits for those who are to be admitted with a step.

    ``dies_in`` is a step in which it is lost, its batch gathered and its gradient made, but not sent.
    """

    dies_in = 0

    def __init__(self, stage, device):
        self._stage = stage
        super().__init__(*stage.hub.address, name=f"device-{device}", deadline_s=LIMIT_S)

    def note(self, step, content):
        if step == self.dies_in:
            wait_for(lambda: not self._stage.hub._views.handovers, "the state that it gives to arrive")
            raise KilledError
        if not self.follows:
            self._stage.before(step)
        super().note(step, content)


def wait_for(condition, what):
    give_up_s = wall_seconds() + LIMIT_S
    while not condition():
        assert wall_seconds() < give_up_s, f"waited {LIMIT_S} s for {what}"
        Event().wait(0.005)


def make_models(config, script):
    """Return a network for each time of each device; torch's generator, which draws them, is that of all threads."""
    from scadles.assembly import build_dataset, build_network

    dataset = build_dataset(config)
    torch.manual_seed(0)
    return {device: [build_network(config, dataset) for _ in times] for device, times in script.items()}


def run_for_real(config, out, script, *, killed=False, least=None):
    stage, models = Stage(script, least), make_models(config, script)

    def live(device, fabric):
        for place, (first, last) in enumerate(script[device]):
            fabric = fabric or stage.enter(device, first)
            fabric.dies_in = last + 1 if killed else 0
            about = {"fabric": fabric, "clock": scadles.VirtualClock(), "out": out / f"device-{device}", "quiet": True}
            with suppress(KilledError), scadles.join(config, model=models[device][place], **about) as joined:
                for batch in joined.batches():
                    outputs = joined.model(batch.x)
                    joined.step(cross_entropy(outputs, batch.y), outputs)
                    if joined.step_number == last < STEPS and not killed:
                        stage.leave(last)
                        break
            fabric = None

    try:
        # seats are taken in the order of numbers
        ends = {device: stage.enter(device, 1) for device, times in script.items() if times[0][0] == 1}
        with ThreadPoolExecutor(len(script)) as pool:
            outcomes = [pool.submit(live, device, ends.get(device)) for device in script]
            for outcome in outcomes:
                outcome.result(2 * LIMIT_S)
    finally:
        stage.hub.close()
    return {device: list(read_events(events_path(out / f"device-{device}", device))) for device in script}


def windows_of(name, folder, script, *, killed):
    """Return the script as availability: every change is at the moment at which a simulated step ends."""
    ends_s = {0: 0.0}

    def availability():
        def window(first, last):
            until_s = ends_s[last] + KILLED_AFTER_S * killed if last in ends_s else ALWAYS_S
            return ends_s[comes_after(first)], until_s

        known = [[window(*time) for time in times if comes_after(time[0]) in ends_s] for times in script.values()]
        return [{"windows_s": windows or [(ALWAYS_S, 2 * ALWAYS_S)]} for windows in known]

    changes = {step for times in script.values() for first, last in times for step in (comes_after(first), last)}
    for step in sorted(changes - {0, STEPS}):
        probe = make_config(name, step, cost={"availability": availability()})
        ends_s[step] = simulate(probe, quiet=True, out=folder / f"until-{step}").time_s
    return availability()


@pytest.fixture(scope="module", autouse=True)
def _silence_is_no_loss():
    """The script alone decides who is lost, however busy the machine is."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(members, "LEAST_S", LIMIT_S)
        patched.setattr(members, "_LEAST_OF_FEW_S", LIMIT_S)
        yield


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Run a configuration by the script for real and simulated; return events and ledgers by device, and the models."""

    @cache
    def run(name, script):
        folder, about = (
            tmp_path_factory.mktemp("both"),
            {"script": SCRIPTS[script], "killed": script.startswith("killed")},
        )
        availability = windows_of(name, folder, **about)
        simulated = simulate(
            make_config(name, cost={"availability": availability}), out=folder / "simulated", quiet=True
        )
        real = run_for_real(make_config(name), folder, **about)
        wrote = min(folder.glob("device-*/model.safetensors"))  # of the first device, whose statistics count
        models = [load_file(path) for path in (wrote, folder / "simulated" / "model.safetensors")]
        assert_same_decisions(simulated, RunFolder(wrote.parent).summary)
        return real, RunFolder(folder / "simulated"), simulated, models

    return run


@pytest.mark.parametrize(("name", "script"), CASES)
def test_the_same_devices_are_in_each_step(both, name, script):
    real, folder, *_ = both(name, script)
    for device, times in SCRIPTS[script].items():
        scripted = [step for first, last in times for step in range(first, last + 1)]
        assert [event.step for event in real[device] if isinstance(event, Step)] == scripted, "as the script says"
        assert [event.step for event in folder.steps(device)] == scripted, "as the script says"


@pytest.mark.parametrize(("name", "script"), CASES)
def test_every_step_and_test_is_the_same_on_every_device(both, name, script):
    real, folder, *_ = both(name, script)
    rounding = ROUNDING | (ROUNDING_OF_RATES if "adascale" in name else {})
    for device in SCRIPTS[script]:
        mine, theirs = (
            [event for event in events if isinstance(event, Step | Evaluation)]
            for events in (folder.events(device), real[device])
        )
        assert [(event.kind, event.step) for event in mine] == [(event.kind, event.step) for event in theirs]
        for event, other in zip(mine, theirs, strict=True):
            for field in vars(event):
                expected, allowed = getattr(other, field), rounding.get(field)
                expected = pytest.approx(expected, **allowed) if allowed and expected is not None else expected
                assert getattr(event, field) == expected, (device, event.kind, event.step, field)


@pytest.mark.parametrize(("name", "script"), CASES)
def test_the_accounts_are_the_same(both, name, script):
    real, _, simulated, _ = both(name, script)
    for device, row in enumerate(simulated.per_device):
        end = [event for event in real[device] if isinstance(event, Finished)][-1]
        assert dict(row.samples) == end.ledger
        assert end.reason == ("left" if SCRIPTS[script][device][-1][1] < STEPS else "steps")


@pytest.mark.parametrize(("name", "script"), CASES)
def test_the_parameters_are_the_same(both, name, script):
    *_, (real, simulated) = both(name, script)
    assert_close(simulated, real)


@pytest.mark.parametrize(("name", "script"), [case for case in CASES if case[0].startswith("diverging")])
def test_all_who_are_there_find_the_same_divergence(both, name, script):
    real, folder, simulated, _ = both(name, script)
    assert simulated.diverged.went_back > 0
    for device, times in SCRIPTS[script].items():
        found = [(e.what, e.step, e.back_to, e.lr_factor) for e in real[device] if isinstance(e, Divergence)]
        expected = [
            (e.what, e.step, e.back_to, e.lr_factor) for e in folder.events(device) if isinstance(e, Divergence)
        ]
        assert found == [one for one in expected if any(first <= one[1] <= last for first, last in times)]


def evaluated_after(events):
    return [event.step for event in events if isinstance(event, Evaluation)]


def assert_same_decisions(simulated, real):
    """How steps were compressed, and how often: in the run with a gate by norm some are not."""
    mine, theirs = simulated.compressed, real.compressed
    assert (mine is None) == (theirs is None)
    if mine is not None and theirs is not None:
        for field in ("reduction", "cnc", "decisions", "ratio", "ratios"):
            assert getattr(mine, field) == getattr(theirs, field)
        assert mine.kept_energy == pytest.approx(theirs.kept_energy, rel=1e-4)
        assert mine.ratio != "auto" or len(mine.ratios) == len(RATIOS)


def assert_close(mine, theirs):
    assert mine.keys() == theirs.keys()
    for parameter, tensor in theirs.items():
        torch.testing.assert_close(mine[parameter], tensor, rtol=1e-5, atol=1e-5, msg=parameter)


@pytest.mark.parametrize("name", ["momentum", "batchnorm, poisson"])
def test_a_step_waits_where_too_few_are_left_and_is_taken_without_what_they_had_gathered(tmp_path, name):
    """Device 1 leaves after step 3, when three are needed, and comes back when the others wait at the hub."""
    script = {0: [(1, STEPS)], 1: [(1, 3), (4, STEPS)], 2: [(1, STEPS)]}
    devices = {
        "devices": 3,
        "stream": CONFIGS[name].get("stream", {}) | {"rates": [40, 12, 21.5]},
        "fabric": {"backend": "hub", "min_devices": 3},
    }
    real = run_for_real(make_config(name, **devices), tmp_path, script, least=3)
    left_s = next(event.time_s for event in real[1] if isinstance(event, Step) and event.step == 3)
    always = {"windows_s": [(0, ALWAYS_S)]}
    cost = {"availability": [always, {"windows_s": [(0, left_s), (left_s + 0.5, ALWAYS_S)]}, always]}
    simulated = simulate(make_config(name, **devices, cost=cost), out=tmp_path / "simulated", quiet=True)
    folder = RunFolder(tmp_path / "simulated")
    for device in script:
        mine, theirs = (
            [(event.step, event.batch, event.offsets, event.total_batch) for event in events if isinstance(event, Step)]
            for events in (folder.events(device), real[device])
        )
        assert mine == theirs
        assert evaluated_after(folder.events(device)) == evaluated_after(real[device])
        assert [batch > 0 for step, batch, *_ in mine if step in (3, 4, 5)] == [True, device == 1, True]
        [end] = [event for event in real[device] if isinstance(event, Finished) and event.reason == "steps"]
        assert dict(simulated.per_device[device].samples) == end.ledger
    models = (load_file(tmp_path / where / "model.safetensors") for where in ("device-0", "simulated"))
    assert_close(*models)
