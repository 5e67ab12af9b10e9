"""Loops as people write them: one device, or two that are threads, one of them with a stream that is often empty."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import scadles
from scadles.errors import CheckpointError, ConfigError, DivergedError, RunError
from scadles.fabric import LocalFabric
from scadles.observe import Notice, RunFolder

CLASSES = 4


@pytest.fixture
def settings(npz):
    return {
        "method": "ddl",
        "steps": 6,
        "picture": False,
        "data": {"dataset": f"npz:{npz}"},
        "stream": {"rates": 100},
        "batch": {"size": 8},
        "clock": {"speed": 60},
        "lr": {"scaling": "none"},
        "checkpoint": {"every_steps": 2},
    }


@pytest.fixture
def two(settings):
    """Device 1 has nothing, however slow this machine is."""
    return settings | {"method": "scadles", "stream": {"rates": [20, 0.001]}, "clock": {"speed": 200}, "steps": 8}


def network(seed=3):
    generator = torch.Generator().manual_seed(seed)  # devices are threads here: the global one is everybody's
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    return model


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


@pytest.fixture
def alone(settings, tmp_path, monkeypatch):
    """Join a run of one device in this process."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def join(model, optimizer=None, *, resume=False, out="run", scores=None, **changes):
        more = {"scores": scores} if scores else {}
        chosen = settings | changes
        return scadles.join(
            chosen, model=model, optimizer=optimizer, out=tmp_path / out, resume=resume, quiet=True, **more
        )

    return join


def go(device, model, each=None):
    """A loop; ``each(step_number)`` before every step."""
    with device:
        for batch in device.batches():
            if each is not None:
                each(device.step_number)
            device.step(cross_entropy(model(batch.x), batch.y))
    return device


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Answers(nn.Module):
    """A model that answers as it is told to."""

    def __init__(self, shape_of):
        super().__init__()
        self.body, self.shape_of = network(), shape_of

    def forward(self, x):
        return self.shape_of(self.body(x))


class Named:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    "shape_of",
    [
        lambda z: {"aux": z[:, :2], "logits": z},
        lambda z: {"loss": z.sum(), "answer": z},
        lambda z: (z, z[:, :2]),
        lambda z: [z.sum(), z],
        Named,
    ],
    ids=["logits in a dictionary", "a matrix in a dictionary", "tuple", "list", "attribute"],
)
def test_outputs_of_any_structure(settings, shape_of, tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    summary = scadles.train(settings, model=Answers(shape_of), out=tmp_path / "run", quiet=True)
    assert summary.final_accuracy is not None
    assert summary.online_accuracy is not None


@pytest.mark.parametrize(
    ("shape_of", "said"),
    [
        (lambda z: {"x": [z]}, r"outputs are a dict without scores \[b, classes\]: say which with scores="),
        (lambda z: z[:, :2], r"answers 2 samples with scores of shape \[2, 2\], and accuracy needs \[2, 4\]"),
        (lambda z: z[:, None], r"scores of shape \[2, 1, 4\]"),
    ],
)
def test_outputs_without_scores_are_refused_before_the_first_step(alone, shape_of, said, tmp_path):
    with pytest.raises(ConfigError, match=said), alone(Answers(shape_of)):
        pass
    assert '"event":"step"' not in (tmp_path / "run" / "events-0.jsonl").read_text()


def test_somebody_says_which_are_the_scores(alone):
    model = Answers(lambda z: {"deep": [z]})
    with alone(model, scores=lambda outputs: outputs["deep"][0]) as device:
        for batch in device.batches():
            outputs = model(batch.x)
            device.step(cross_entropy(outputs["deep"][0], batch.y), outputs)
    assert device.summary.online_accuracy is not None


class TestOneLogit:
    """Two classes and one output for both, which is positive where the answer is the second one."""

    @pytest.fixture
    def settings(self, settings, write_npz, tmp_path):
        return settings | {"data": {"dataset": f"npz:{write_npz(tmp_path / 'two.npz', 600, classes=2)}"}, "steps": 30}

    def go(self, alone, **more):
        torch.manual_seed(5)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
        with alone(model, torch.optim.SGD(model.parameters(), 0.1), **more) as device:
            for batch in device.batches():
                outputs = model(batch.x)
                device.step(binary_cross_entropy_with_logits(outputs.squeeze(1), batch.y.float()), outputs)
        return model, device.summary

    def test_it_is_refused_before_the_first_step_with_the_way_out(self, alone, tmp_path):
        with pytest.raises(ConfigError, match=r"needs \[2, 2\], .*: for one logit: scores=lambda z: torch.stack"):
            self.go(alone)
        assert '"event":"step"' not in (tmp_path / "run" / "events-0.jsonl").read_text()

    def test_by_that_way_out_accuracy_is_that_of_the_model(self, alone, tmp_path):
        model, summary = self.go(alone, scores=lambda z: torch.stack([-z.flatten(), z.flatten()], 1))
        with np.load(tmp_path / "two.npz") as data:
            x = (data["test_x"] - data["train_x"].mean()) / data["train_x"].std()
            right = (model(torch.from_numpy(x)).flatten() > 0).numpy() == (data["test_y"] == 1)
        assert summary.final_accuracy == pytest.approx(right.mean())
        assert summary.final_accuracy > 0.9
        assert summary.online_accuracy > 0.5


class SAM(torch.optim.SGD):
    def second_step(self):
        pass


class Searching(torch.optim.SGD):
    def step(self, closure):
        pass


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (torch.optim.LBFGS, "LBFGS evaluates the loss several times a step, through a closure"),
        (SAM, "SAM evaluates the loss several times"),
        (Searching, "Searching evaluates the loss several times"),
        (torch.optim.SparseAdam, "SparseAdam takes sparse gradients only"),
    ],
)
def test_optimizers_that_cannot_work_are_refused(alone, kind, said):
    model = network()
    with pytest.raises(ConfigError, match=said):
        alone(model, kind(model.parameters(), lr=0.1))


def test_an_optimizer_of_another_model_is_refused(alone):
    with pytest.raises(ConfigError, match="holds none of the model's parameters"):
        alone(network(), sgd(network()))
    with pytest.raises(ConfigError, match=r"optimizer is a int: it must be a torch\.optim\.Optimizer"):
        alone(network(), 3)


def test_several_optimizers_and_a_resumed_run_of_them(alone):
    def pair(model):
        return [sgd(model[1]), torch.optim.AdamW(model[3].parameters(), 0.01)]

    whole, parts = network(), network()
    go(alone(whole, pair(whole), out="whole"), whole)
    go(alone(parts, pair(parts), steps=4), parts)
    again = network(seed=5)
    go(alone(again, pair(again), resume=True), again)
    assert torch.equal(weights(whole), weights(again))
    model, one = network(), sgd(network())
    with pytest.raises(ConfigError, match="two optimizers hold the same parameter"):
        alone(model, [sgd(model), sgd(model)], out="doubled")
    with pytest.raises(ConfigError, match="the optimizers suit different scalings"):
        alone(model, pair(model), lr={"scaling": "auto"}, out="other")
    one.step()


@pytest.mark.parametrize("habit", ["backward", "step", "both"])
def test_the_habit_of_stepping_in_the_loop_is_recognised(alone, habit):
    model = network()
    optimizer, before = sgd(model), weights(model)

    def loop():
        with alone(model, optimizer) as device:
            for batch in device.batches():
                optimizer.zero_grad()
                loss = cross_entropy(model(batch.x), batch.y)
                if habit != "step":
                    loss.backward()
                if habit != "backward":
                    optimizer.step()
                device.step(loss)

    with pytest.raises(RunError, match=r"was called in the loop: leave .* device\.step\(loss\) does the backward pass"):
        loop()
    assert torch.equal(weights(model), before)
    optimizer.step()  # after the run it is the user's again


def test_a_loss_without_a_graph(alone):
    model = network()

    def loop():
        with alone(model) as device:
            for batch in device.batches():
                device.step(cross_entropy(model(batch.x), batch.y).detach())

    with pytest.raises(RunError, match="depends on no parameter that requires a gradient"):
        loop()


class TestRates:
    """The optimizer's groups are the user's between steps."""

    def test_a_schedulers_rate_is_the_base(self, alone):
        model = network()
        optimizer = sgd(model)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
        used, said = [], []
        settings = {"lr": {"scaling": "linear"}, "batch": {"size": 8}, "method": "ddl"}
        with alone(model, optimizer, **settings) as device:
            for batch in device.batches():
                said.append(scheduler.get_last_lr()[0])
                event = device.step(cross_entropy(model(batch.x), batch.y))
                used.append(event.lr / event.lr_scale)
                scheduler.step()
        plain = torch.optim.SGD(network().parameters(), 0.1)
        reference, expected = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=6), []
        for _ in range(6):
            expected.append(plain.param_groups[0]["lr"])
            plain.step()
            reference.step()
        assert used == pytest.approx(said)
        assert said == pytest.approx(expected)

    def test_where_it_is_not_stepped_alike_all_devices_say_so(self, in_threads, two, tmp_path):
        def work(fabric):
            model = network()
            optimizer = sgd(model)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            joined = scadles.join(
                two, model=model, optimizer=optimizer, out=tmp_path / "run", quiet=True, fabric=fabric
            )
            with pytest.raises(RunError) as caught:
                go(joined, model, lambda step: step and scheduler.step())
            return str(caught.value)

        for said in in_threads(2, work):
            assert "the optimizer's groups on devices [1] say something else than on the rest" in said
            assert "device.on_step, which is called where a batch is empty" in said

    def test_in_on_step_it_is(self, in_threads, two, tmp_path):
        def work(fabric):
            model = network()
            optimizer = sgd(model)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            joined = scadles.join(
                two, model=model, optimizer=optimizer, out=tmp_path / "run", quiet=True, fabric=fabric
            )
            joined.on_step(lambda step: scheduler.step(), state=scheduler)
            go(joined, model)
            return weights(model), optimizer.param_groups[0]["lr"]

        (first, lr), (second, _) = in_threads(2, work)
        assert torch.equal(first, second)
        assert lr == pytest.approx(0.1 * 0.5**8)
        steps = RunFolder(tmp_path / "run").steps(0)
        assert [step.lr for step in steps if step.total_batch] == pytest.approx(
            [0.1 * 0.5**i for i, step in enumerate(steps) if step.total_batch]
        )

    def test_what_is_asked_for_anew_counts_when_a_run_is_resumed(self, alone, tmp_path):
        model = network()
        go(alone(model, sgd(model), steps=2), model)
        again = network()
        device = go(alone(again, sgd(again, lr=0.001), resume=True, steps=4), again)
        run = RunFolder(tmp_path / "run")
        assert [step.lr for step in run.steps(0)] == [0.1, 0.1, 0.001, 0.001]
        said = [event.message for event in run.events(0) if isinstance(event, Notice)]
        assert said == ["resumed: the optimizer's lr was 0.1 and is now 0.001"]
        assert device.summary.steps == 4

    def test_what_a_scheduler_made_of_them_goes_on_when_nothing_else_is_asked_for(self, alone, tmp_path):
        def scheduled(steps, resume):
            model = network()
            optimizer = sgd(model)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            device = alone(model, optimizer, resume=resume, steps=steps)
            device.on_step(lambda step: scheduler.step(), state=scheduler)
            go(device, model)

        scheduled(2, resume=False)
        scheduled(4, resume=True)
        assert [step.lr for step in RunFolder(tmp_path / "run").steps(0)] == [0.1, 0.05, 0.025, 0.0125]
        assert not [event for event in RunFolder(tmp_path / "run").events(0) if isinstance(event, Notice)]

    def test_settings_that_may_change(self, settings, tmp_path, monkeypatch):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        whole = {"out": tmp_path / "run", "quiet": True}
        scadles.train(settings | {"steps": 2, "optimizer": {"lr": 0.1}}, **whole)
        changed = {
            "optimizer": {"lr": 0.01, "weight_decay": 0, "clip_norm": 0.5},
            "lr": {"scaling": "none", "milestones": [9]},
            "batch": {"size": 4},
            "stream": {"rates": 50},
        }
        scadles.train(settings | {"steps": 5} | changed, resume=True, **whole)
        run = RunFolder(tmp_path / "run")
        said = [event.message for event in run.events(0) if isinstance(event, Notice)]
        for part in (
            "batch.size was 8 and is now 4",
            "lr.milestones was () and is now (9,)",
            "optimizer.clip_norm was None and is now 0.5",
            "the optimizer's lr was 0.1 and is now 0.01",
            "the optimizer's weight_decay was 0.0001 and is now 0.0",
        ):
            assert f"resumed: {part}" in said
        assert any("stream.rates was" in text for text in said)
        assert len(said) == 6
        steps = run.steps(0)
        assert [step.batch for step in steps] == [8, 8, 4, 4, 4]
        assert [step.offsets[0] for step in steps] == [0, 8, 16, 20, 24]
        scadles.train(settings | {"steps": 7} | changed, resume=True, **whole)
        assert len([event for event in run.events(0) if isinstance(event, Notice)]) == 6, "said once"
        with pytest.raises(ConfigError, match=r"optimizer was .* a resumed run must keep it"):
            scadles.train(settings | {"optimizer": {"name": "adam"}}, resume=True, **whole)

    def test_another_target_has_yet_to_be_reached(self, settings, tmp_path, monkeypatch):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        whole = {"out": tmp_path / "run", "quiet": True}
        easy = settings | {"steps": 4, "target_accuracy": 0.0001, "evaluation": {"every_s": 0.05}}
        reached = scadles.train(easy, **whole)
        assert (reached.ended_by, reached.steps) == ("target", 1)
        again = scadles.train(easy, resume=True, **whole)
        assert (again.ended_by, again.time_to_target_s) == ("target", reached.time_to_target_s)
        said = [event.message for event in RunFolder(tmp_path / "run").events(0) if isinstance(event, Notice)]
        assert said == [
            "the run had ended already (target, after step 1): raise steps, duration_s or target_accuracy to go on"
        ]
        hard = scadles.train(easy | {"target_accuracy": 1.0}, resume=True, **whole)
        assert (hard.ended_by, hard.steps, hard.time_to_target_s) == ("steps", 4, None)

    @pytest.mark.parametrize("crashed", [False, True], ids=["at once", "after a crash that came before a checkpoint"])
    @pytest.mark.parametrize("now", [{}, {"ratio": 0.05, "values": "float16"}, {"ratio": 0.5, "method": "powersgd"}])
    def test_compression_may_change(self, settings, tmp_path, monkeypatch, now, crashed):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        whole = {"out": tmp_path / "run", "quiet": True}
        before = settings | {"steps": 2, "method": "scadles", "compression": {"ratio": 0.2, "gate": "always"}}
        scadles.train(before, **whole)
        after = scadles.load_config(before | {"steps": 5, "compression": now})
        if crashed:
            (tmp_path / "run" / "config.yaml").write_text(after.to_yaml())
        assert scadles.train(after, resume=True, **whole).steps == 5
        said = [event.message for event in RunFolder(tmp_path / "run").events(0) if isinstance(event, Notice)]
        assert crashed or any("what compression had kept back goes on where it fits" in text for text in said)


class TestWeights:
    """The step is that of the union of all devices' batches."""

    @pytest.mark.parametrize("in_parts", [False, True])
    def test_tokens(self, in_threads, settings, tmp_path, in_parts):
        """Two and 32 valid positions a sample; also where the batch comes in parts."""
        given = {}

        def work(fabric):
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32 * CLASSES))
            optimizer = torch.optim.SGD(model.parameters(), 1.0)
            joined = scadles.join(
                settings | {"steps": 1, "aggregation": {"mean": "weighted"}},
                model=model,
                optimizer=optimizer,
                loss=lambda outputs, y: outputs.sum() * 0,
                out=tmp_path / "run",
                quiet=True,
                fabric=fabric,
            )
            with joined as device:
                started = weights(model)
                for batch in device.batches():
                    targets = batch.y[:, None].repeat(1, 32)
                    targets[:, 2 if device.rank == 0 else 32 :] = -100
                    targets[0] = -100
                    given[device.rank] = (batch.x, targets)
                    if in_parts:
                        for x, y in zip(batch.x.split(3), targets.split(3), strict=True):
                            device.accumulate(token_loss(model, x, y), weight=(y >= 0).sum())
                        event = device.step()
                    else:
                        event = device.step(token_loss(model, batch.x, targets), weight=(targets >= 0).sum())
            return started, weights(model), event.loss, model

        (started, first, loss, _), (_, second, _, _) = in_threads(2, work)
        assert torch.equal(first, second)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32 * CLASSES))
        nn.utils.vector_to_parameters(started, model.parameters())
        whole = token_loss(model, *(torch.cat([given[0][i], given[1][i]]) for i in (0, 1)))
        whole.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.testing.assert_close(started - first, gradient, rtol=1e-5, atol=1e-6)
        assert loss == pytest.approx(whole.item(), rel=1e-5)

    @pytest.mark.parametrize("rest", [0, 2])
    def test_parts_of_a_batch(self, alone, rest):
        whole, parts = network(), network()
        go(alone(whole, sgd(whole), out="whole"), whole)
        with alone(parts, sgd(parts)) as device:
            for batch in device.batches():
                pieces = list(zip(batch.x.split(2), batch.y.split(2), strict=True))
                for x, y in pieces[: len(pieces) - rest // 2]:
                    device.accumulate(cross_entropy(parts(x), y))
                last = [cross_entropy(parts(x), y) for x, y in pieces[len(pieces) - rest // 2 :]]
                device.step(*last)
        torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)

    def test_parts_of_unequal_size_count_by_their_outputs(self, alone):
        whole, parts = network(), network()
        go(alone(whole, sgd(whole), out="whole"), whole)
        with alone(parts, sgd(parts)) as device:
            for batch in device.batches():
                for x, y in zip(batch.x.split(5), batch.y.split(5), strict=True):
                    outputs = parts(x)
                    device.accumulate(cross_entropy(outputs, y), outputs)
                device.step()
        torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)
        assert device.summary.online_accuracy is not None

    def test_a_batch_that_counts_for_nothing(self, alone, tmp_path):
        model = network()
        before = weights(model)
        with alone(model, sgd(model), steps=2) as device:
            for batch in device.batches():
                device.step(cross_entropy(model(batch.x), batch.y) * float("nan"), weight=0)
        assert torch.equal(weights(model), before)
        row = device.summary.per_device[0]
        assert (row.samples.trained, row.samples.rejected, row.non_finite_steps) == (16, 0, 0)

    @pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
    def test_weights_that_cannot_be(self, alone, weight):
        model = network()

        def loop():
            with alone(model) as device:
                for batch in device.batches():
                    device.step(cross_entropy(model(batch.x), batch.y), weight=weight)

        with pytest.raises(RunError, match="must be finite and not negative"):
            loop()

    def test_what_is_missing(self, alone):
        model = network()

        def without_a_loss():
            with alone(model) as device:
                for _ in device.batches():
                    device.step()

        def without_a_batch():
            with alone(model, out="other") as device:
                device.accumulate(model(torch.ones(1, 64)).sum())

        def mixed():
            with alone(model, out="third") as device:
                for batch in device.batches():
                    device.accumulate(cross_entropy(model(batch.x), batch.y))
                    device.accumulate(cross_entropy(model(batch.x), batch.y), weight=3)

        for loop, said in (
            (without_a_loss, "without a loss"),
            (without_a_batch, "without a batch"),
            (mixed, "all parts of a batch a weight, or none"),
        ):
            with pytest.raises(RunError, match=said):
                loop()


def token_loss(model, x, y):
    return cross_entropy(model(x).view(-1, CLASSES, 32), y, ignore_index=-100)


@pytest.mark.parametrize("norm", [0.01, 1e9])
def test_the_common_gradient_is_clipped(settings, tmp_path, monkeypatch, norm):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    model, reference, batches = network(), network(), []
    chosen = settings | {"optimizer": {"clip_norm": norm}}
    with scadles.join(chosen, model=model, optimizer=sgd(model), out=tmp_path / "run", quiet=True) as device:
        for batch in device.batches():
            batches.append(batch)
            device.step(cross_entropy(model(batch.x), batch.y))
    optimizer = sgd(reference)
    for batch in batches:
        optimizer.zero_grad()
        cross_entropy(reference(batch.x), batch.y).backward()
        nn.utils.clip_grad_norm_(reference.parameters(), norm)
        optimizer.step()
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-4, atol=1e-6)


class TestHooks:
    def test_an_average_is_the_same_on_all_devices_and_goes_on(self, in_threads, two, tmp_path):
        def work(fabric):
            found = []
            for name, attempts in (("whole", [8]), ("parts", [4, 8])):
                for number, steps in enumerate(attempts):
                    model = network()
                    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
                    joined = scadles.join(
                        two | {"steps": steps, "stream": {"rates": [20, 0.5]}},
                        model=model,
                        optimizer=sgd(model),
                        out=tmp_path / name,
                        quiet=True,
                        fabric=fabric.pop(0),
                        resume=number > 0,
                    )
                    seen = []
                    with joined as device:
                        device.on_step(lambda step, seen=seen: seen.append(step.step))
                        device.on_step(lambda step, a=average, m=model: a.update_parameters(m), state=average)
                        for batch in device.batches():
                            device.step(cross_entropy(model(batch.x), batch.y))
                    assert seen == list(range(attempts[number - 1] + 1 if number else 1, steps + 1))
                found.append((weights(average.module), int(average.n_averaged)))
            return found

        ends = list(zip(*(LocalFabric.create(2, deadline_s=30.0) for _ in range(3)), strict=True))
        groups = [_Several(end) for end in ends]
        first, second = in_threads(groups, work)
        for (mine, count), (theirs, _) in zip(first, second, strict=True):
            assert torch.equal(mine, theirs)
            assert count == 8

    def test_a_resumed_average_is_that_of_the_whole_run(self, alone):
        def run(steps, out, resume=False):
            model = network()
            average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
            device = alone(model, sgd(model), steps=steps, out=out, resume=resume)
            device.on_step(lambda step: average.update_parameters(model), state=average)
            go(device, model)
            return weights(average.module)

        whole = run(6, "whole")
        run(2, "parts")
        assert torch.equal(run(6, "parts", resume=True), whole)

    def test_states_of_any_kind(self, alone):
        class Counter:
            def __init__(self):
                self.state = {
                    1: {"a": (1, 2.5, None)},
                    "b": [b"x", {3}],
                    "t": torch.ones(2),
                    "n": torch.ones(1).numpy(),
                }

            def __call__(self, step):
                self.state["last"] = step.step

            def state_dict(self):
                return self.state

            def load_state_dict(self, state):
                self.loaded = state

        model, first, second = network(), Counter(), Counter()
        device = alone(model, steps=2)
        device.on_step(first)
        go(device, model)
        device = alone(network(), steps=2, resume=True)
        device.on_step(second)
        go(device, device.model)
        loaded = dict(second.loaded)
        assert loaded["last"] == 2
        assert torch.equal(loaded.pop("t"), torch.ones(2))
        assert loaded.pop("n").tolist() == [1.0]
        assert {k: v for k, v in loaded.items() if k != 1} == {"b": [b"x", {3}], "last": 2}
        assert dict(loaded[1]) == {"a": (1, 2.5, None)}

    def test_what_cannot_be_kept(self, alone):
        class Open:
            def state_dict(self):
                return {"file": object()}

            def load_state_dict(self, state):
                pass

        device = alone(network())
        with pytest.raises(CheckpointError, match="a state has state_dict"):
            device.on_step(lambda step: None, state=3)
        device.on_step(lambda step: None, state=Open())
        with pytest.raises(RunError, match="on_step/0/file holds a object, which a checkpoint cannot keep"):
            go(device, device.model)


class _Several(list):
    """Ends of several fabrics, used one after the other."""

    def close(self):
        for end in self:
            end.close()


class TestManaged:
    def test_a_group_that_is_added(self, in_threads, settings, tmp_path):
        def work(fabric):
            model = network()
            optimizer = torch.optim.SGD(model[3].parameters(), 0.1)
            joined = scadles.join(
                settings, model=model, optimizer=optimizer, out=tmp_path / "run", quiet=True, fabric=fabric
            )
            joined.on_step(
                lambda step: step.step == 3 and optimizer.add_param_group({"params": model[1].parameters(), "lr": 0.01})
            )
            before = weights(model[1])
            go(joined, model)
            return weights(model), torch.equal(before, weights(model[1]))

        (first, still), (second, _) = in_threads(2, work)
        assert torch.equal(first, second)
        assert not still

    def test_a_group_that_one_device_adds(self, in_threads, settings, tmp_path):
        def work(fabric):
            model = network()
            optimizer = torch.optim.SGD(model[3].parameters(), 0.1)
            joined = scadles.join(
                settings, model=model, optimizer=optimizer, out=tmp_path / "run", quiet=True, fabric=fabric
            )

            def each(step):
                if step == 3 and fabric.rank == 1:
                    optimizer.add_param_group({"params": model[1].parameters()})

            with pytest.raises(RunError) as caught:
                go(joined, model, each)
            return str(caught.value)

        for said in in_threads(2, work):
            assert said.startswith("step 4: the optimizer's groups on devices [1] say something else")

    def test_what_one_device_unfreezes(self, in_threads, settings, tmp_path):
        def work(fabric):
            model = network()
            model[1].requires_grad_(False)
            joined = scadles.join(
                settings, model=model, optimizer=sgd(model), out=tmp_path / "run", quiet=True, fabric=fabric
            )
            with pytest.raises(RunError) as caught:
                go(joined, model, lambda step: model[1].requires_grad_(step >= 3 and fabric.rank == 1))
            return str(caught.value)

        for said in in_threads(2, work):
            assert said.startswith("gradients of step 4: on devices [1] other parameters require gradients")

    def test_with_compression_it_is_refused(self, in_threads, settings, tmp_path):
        def work(fabric):
            model = network()
            model[1].requires_grad_(False)
            joined = scadles.join(
                settings | {"compression": {"ratio": 0.1}},
                model=model,
                optimizer=sgd(model),
                out=tmp_path / "run",
                quiet=True,
                fabric=fabric,
            )
            joined.on_step(lambda step: model[1].requires_grad_(True))
            with pytest.raises(RunError, match=r"and compression\.ratio is set"):
                go(joined, model)

        in_threads(2, work)

    def test_on_one_device_gradients_of_what_is_unfrozen_are_those_of_the_batch(self, alone):
        model, used = network(), []
        model[1].requires_grad_(False)
        with alone(model, sgd(model)) as device:
            for batch in device.batches():
                if device.step_number == 2:
                    model[1].requires_grad_(True)
                loss = cross_entropy(model(batch.x), batch.y)
                trained = [p for p in model.parameters() if p.requires_grad]
                expected = torch.autograd.grad(loss, trained, retain_graph=True)
                device.step(loss)
                used.append(len(trained))
                for parameter, gradient in zip(trained, expected, strict=True):
                    torch.testing.assert_close(parameter.grad, gradient)
        assert used == [2, 2, 4, 4, 4, 4]

    def test_what_was_unfrozen_is_so_in_a_resumed_run(self, alone, tmp_path):
        def run(steps, out, resume=False):
            model = network()
            model[1].requires_grad_(False)
            device = alone(model, sgd(model), steps=steps, out=out, resume=resume)
            device.on_step(lambda step: step.step == 3 and model[1].requires_grad_(True))
            go(device, model)
            return weights(model)

        whole = run(6, "whole")
        run(4, "parts")
        assert torch.equal(run(6, "parts", resume=True), whole)
        said = [event.message for event in RunFolder(tmp_path / "parts").events(0) if isinstance(event, Notice)]
        assert said == ["resumed: requires_grad of 1.weight, 1.bias is what it was at the checkpoint"]

    @pytest.mark.parametrize("compression", [{}, {"ratio": 0.2, "gate": "always"}])
    def test_what_no_loss_uses_neither_decays_nor_moves(self, in_threads, settings, tmp_path, compression):
        def work(fabric):
            model = network()
            model.unused = nn.Parameter(torch.ones(5))
            optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
            joined = scadles.join(
                settings | {"compression": compression},
                model=model,
                optimizer=optimizer,
                out=tmp_path / "run",
                quiet=True,
                fabric=fabric,
            )

            def forward(x):
                return model[3](model[2](model[1](model[0](x))))

            model.forward = forward
            before = weights(model[3])
            go(joined, model)
            assert not torch.equal(before, weights(model[3]))
            return model.unused.detach().tolist(), model.unused in optimizer.state

        assert in_threads(2, work) == [([1.0] * 5, False)] * 2

    @pytest.mark.parametrize("compression", [{}, {"ratio": 0.2, "gate": "always"}, {"ratio": 0.2, "gate": "norm"}])
    def test_buffers_that_passes_change_are_the_same_on_devices_without_a_batch(
        self, in_threads, two, tmp_path, compression
    ):
        def work(fabric):
            model = network()
            model[1] = nn.utils.parametrizations.spectral_norm(model[1])
            joined = scadles.join(
                two | {"compression": compression},
                model=model,
                optimizer=sgd(model),
                out=tmp_path / "run",
                quiet=True,
                fabric=fabric,
            )
            found = []
            joined.on_step(lambda step: found.append([buffer.clone() for buffer in model.buffers()]))
            go(joined, model)
            return found

        for mine, theirs in zip(*in_threads(2, work), strict=True):
            assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))
        assert 0 in [step.batch for step in RunFolder(tmp_path / "run").steps(1)]

    def test_parameters_of_the_optimizer_alone_are_kept(self, alone):
        def run(steps, out, resume=False):
            model, centres = network(), nn.Parameter(torch.eye(CLASSES))
            optimizer = torch.optim.SGD([*model.parameters(), centres], 0.1, momentum=0.9)
            with alone(model, optimizer, steps=steps, out=out, resume=resume) as device:
                for batch in device.batches():
                    device.step(cross_entropy(model(batch.x) @ centres, batch.y))
            return centres.detach()

        whole = run(6, "whole")
        run(2, "parts")
        assert torch.equal(run(6, "parts", resume=True), whole)

    def test_the_error_names_the_tensor(self, in_threads, settings, tmp_path):
        def work(fabric):
            model = network()
            joined = scadles.join(
                settings, model=model, optimizer=sgd(model), out=tmp_path / "run", quiet=True, fabric=fabric
            )

            def spoil(step):
                if step == 1 and fabric.rank == 1:
                    with torch.no_grad():
                        model[3].bias.add_(1.0)

            with pytest.raises(DivergedError) as caught:
                go(joined, model, spoil)
            return str(caught.value)

        for said in in_threads(2, work):
            assert "comparing models after step 2: devices" in said
            assert " in 3.bias; parameters were changed outside device.step()" in said

    def test_state_that_is_no_tensor(self, in_threads, settings, tmp_path):
        class Vocabulary(nn.Module):
            def __init__(self, words):
                super().__init__()
                self.body, self.words = network(), words
                self.register_buffer("scale", torch.tensor(1.0 + len(words)), persistent=False)

            def forward(self, x):
                return self.body(x) * self.scale

            def get_extra_state(self):
                return {"words": self.words}

            def set_extra_state(self, state):
                self.words = state["words"]

        def work(fabric):
            model = Vocabulary(["of", "device", "0"] if fabric.rank == 0 else ["another"])
            joined = scadles.join(
                settings, model=model, optimizer=sgd(model), out=tmp_path / "run", quiet=True, fabric=fabric
            )
            go(joined, model)
            return model.words, float(model.scale)

        assert in_threads(2, work) == [(["of", "device", "0"], 4.0)] * 2
        assert "scale" not in load_file(tmp_path / "run" / "model.safetensors")

    def test_a_model_is_compiled_before_the_clock_starts(self, alone, tmp_path):
        compiled = []

        def backend(graph, examples):
            compiled.append(device.clock_now_s)
            return graph

        plain = network()
        model = torch.compile(plain, backend=backend)
        device = alone(model, sgd(plain))
        go(device, model)
        assert set(compiled) == {0.0}
        assert set(load_file(tmp_path / "run" / "model.safetensors")) == set(plain.state_dict())
        again = network(seed=9)
        go(alone(again, sgd(again), resume=True), again)
        assert torch.equal(weights(again), weights(plain))


class TestStreamsThatEnd:
    @pytest.fixture
    def ending(self, settings):
        return settings | {"steps": None, "stream": {"rates": 400, "end": "stop"}, "batch": {"size": 64}}

    def test_a_loop_ends_with_the_stream_and_a_resumed_one_has_nothing_more(self, alone, ending, tmp_path):
        model, sizes = network(), []
        with alone(model, sgd(model), **ending) as device:
            for batch in device.batches():
                sizes.append(len(batch))
                device.step(cross_entropy(model(batch.x), batch.y))
        assert sum(sizes) == 600
        assert sizes[-1] == 600 % 64
        assert device.summary.ended_by == "streams"
        assert device.summary.samples.trained == 600
        before = weights(model)
        again = go(alone(other := network(), sgd(other), resume=True, **ending), other)
        assert (again.summary.steps, again.summary.ended_by) == (len(sizes), "streams")
        assert torch.equal(weights(other), before)
        with pytest.raises(ConfigError, match="would never end"):
            alone(network(), resume=True, **ending | {"stream": {"rates": 400}})

    def test_whether_to_end_may_change(self, alone, ending, tmp_path):
        model = network()
        go(alone(model, sgd(model), **ending | {"stream": {"rates": 400}, "steps": 3}), model)
        other = network()
        go(alone(other, sgd(other), resume=True, **ending), other)
        run = RunFolder(tmp_path / "run")
        assert run.summary.samples.trained == 600
        said = [event.message for event in run.events(0) if isinstance(event, Notice)]
        assert "resumed: stream.end was wait and is now stop" in said


def test_method_auto_leaves_the_rate_to_an_optimizer_that_is_not_sgd(settings, in_threads, tmp_path):
    """It says so once, and the run folder says what was done."""
    shared = {name: settings[name] for name in ("steps", "picture", "data", "stream", "clock")}
    asked = shared | {"method": "auto", "devices": 2}

    def work(fabric):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        about = {"model": model, "optimizer": optimizer, "out": tmp_path / "run", "quiet": True, "fabric": fabric}
        with scadles.join(asked, **about) as device:
            for batch in device.batches():
                device.step(cross_entropy(model(batch.x), batch.y))
        return device.summary

    for summary in in_threads(2, work):
        assert summary.steps == 6
    folder = RunFolder(tmp_path / "run")
    assert "rate: fixed" in folder.config_text
    said = [[event.message for event in folder.events(device) if isinstance(event, Notice)] for device in (0, 1)]
    about_rate = "method auto leaves the learning rate to Adam: it is chosen for torch.optim.SGD alone"
    assert [messages.count(about_rate) for messages in said] == [1, 0]


def test_a_rate_that_is_asked_for_by_name_needs_sgd(settings, in_threads, tmp_path):
    asked = {**settings, "method": "scadles", "lr": {"rate": "auto"}, "devices": 2}

    def work(fabric):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        about = {"model": model, "optimizer": optimizer, "out": tmp_path / "run", "quiet": True, "fabric": fabric}
        with pytest.raises(ConfigError, match=r"lr\.rate = auto: Adam: only steps of SGD"):
            scadles.join(asked, **about)

    in_threads(2, work)
