"""The weighted mean is the gradient of the union batch; run as a script, this file is one device of a gloo group."""

import json
import os
from hashlib import sha256

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from scadles.clock import WallClock
from scadles.errors import ConfigError, FabricError, RunError
from scadles.exchange.aggregation import GradientExchange, Report
from scadles.fabric import LocalFabric, TorchFabric

INPUTS, CLASSES = 6, 4
# nothing, one bucket for each parameter, and two parameters together
BUCKETS = [None, 1, 200]


def make_model(seed, dtype=torch.float64):
    layers = [nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES)]
    model = nn.Sequential(*layers).to(dtype)
    generator = torch.Generator().manual_seed(seed)  # devices are threads here: the global one is everybody's
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    return model


def make_batches(sizes, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), INPUTS, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(CLASSES, (sum(sizes),), generator=generator)
    return list(zip(torch.split(x, list(sizes)), torch.split(y, list(sizes)), strict=True))


def union_gradient(sizes, seed, dtype=torch.float64):
    """What plain torch makes of all batches put together."""
    model, batches = make_model(seed, dtype), make_batches(sizes, seed, dtype)
    cross_entropy(model(torch.cat([x for x, _ in batches])), torch.cat([y for _, y in batches])).backward()
    return gradient(model)


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def exchange_once(fabric, sizes, seed, bucket_bytes, dtype=torch.float64, spoil=None):
    """Be one device for one step; ``spoil`` is what it does to its model before the backward pass."""
    model = make_model(seed, dtype)
    x, y = make_batches(sizes, seed, dtype)[fabric.rank]
    exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)
    if spoil is not None:
        spoil(fabric.rank, model)
    exchange.begin(len(x), "gradients of step 1")
    if len(x):
        (cross_entropy(model(x), y) * len(x)).backward()
    reports = exchange.finish(Report(batch=len(x), weight=len(x), loss=fabric.rank / 8, ready_s=0.25))
    return model, reports


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


batch_sizes = st.lists(st.one_of(st.just(0), st.integers(0, 16), st.integers(0, 1024)), min_size=1, max_size=5)


@given(batch_sizes, st.integers(0, 1000), st.sampled_from(BUCKETS))
def test_the_weighted_mean_is_the_gradient_of_the_union_batch(in_threads, sizes, seed, bucket_bytes):
    outcomes = in_threads(len(sizes), lambda fabric: exchange_once(fabric, sizes, seed, bucket_bytes))
    expected = union_gradient(sizes, seed) if sum(sizes) else None
    for model, reports in outcomes:
        assert [report.batch for report in reports] == sizes
        assert [report.weight for report in reports] == sizes
        assert [report.loss for report in reports] == [rank / 8 for rank in range(len(sizes))]
        assert {report.redo for report in reports} == {0.0}
        if expected is None:
            assert all(p.grad is None for p in model.parameters())
        else:
            assert relative_error(gradient(model), expected) <= 1e-10
            assert torch.equal(gradient(model), gradient(outcomes[0][0]))


@given(batch_sizes, st.sampled_from(BUCKETS))
def test_the_plain_mean_counts_every_device_with_a_batch_alike(in_threads, sizes, bucket_bytes):
    def work(fabric):
        model = make_model(0)
        x, y = make_batches(sizes, 0)[fabric.rank]
        exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)
        weight = float(len(x) > 0)
        exchange.begin(weight, "step 1")
        if weight:
            cross_entropy(model(x), y).backward()
        exchange.finish(Report(batch=len(x), weight=weight))
        return model

    alone = []
    for x, y in make_batches(sizes, 0):
        if len(x):
            cross_entropy((model := make_model(0))(x), y).backward()
            alone.append(gradient(model))
    for model in in_threads(len(sizes), work):
        if alone:
            assert relative_error(gradient(model), torch.stack(alone).mean(dim=0)) <= 1e-10
        else:
            assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("bucket_bytes", BUCKETS)
def test_step_after_step(in_threads, bucket_bytes):
    """Memory is reused from step to step: nothing of an earlier one may show, whoever takes part."""
    steps = [[3, 0, 5], [0, 0, 0], [0, 7, 0], [1, 1, 1], [0, 0, 9]]

    def work(fabric):
        model = make_model(0)
        exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)
        found = []
        for seed, sizes in enumerate(steps):
            x, y = make_batches(sizes, seed)[fabric.rank]
            model.load_state_dict(make_model(seed).state_dict())
            model.zero_grad()
            exchange.begin(len(x), f"step {seed}")
            if len(x):
                (cross_entropy(model(x), y) * len(x)).backward()
            exchange.finish(Report(batch=len(x), weight=len(x)))
            found.append(gradient(model).clone() if sum(sizes) else None)
        return found

    for found in in_threads(3, work):
        for seed, sizes in enumerate(steps):
            if sum(sizes):
                assert relative_error(found[seed], union_gradient(sizes, seed)) <= 1e-10
            else:
                assert found[seed] is None


class TestNonFinite:
    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    @pytest.mark.parametrize("bad", [0, 2])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("parameter", [0, 3, 5], ids=["first layer", "middle", "last layer"])
    def test_one_bad_gradient_is_left_out_everywhere(self, in_threads, bucket_bytes, bad, value, parameter):
        """The first layer's gradient comes last: with buckets the others have left by then."""
        sizes = [5, 3, 7]

        def spoil(rank, model):
            if rank == bad:
                list(model.parameters())[parameter].register_hook(lambda grad: grad.clone().fill_(value))

        expected = good_mean(sizes, 1, bad)
        for model, reports in in_threads(3, lambda f: exchange_once(f, sizes, 1, bucket_bytes, spoil=spoil)):
            assert [report.weight for report in reports] == [0 if rank == bad else sizes[rank] for rank in range(3)]
            assert [report.batch for report in reports] == sizes
            assert relative_error(gradient(model), expected) <= 1e-10

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    def test_all_bad_gradients_leave_the_parameters_alone(self, in_threads, bucket_bytes):
        def spoil(rank, model):
            model[0].weight.register_hook(lambda grad: grad * float("nan"))

        for model, reports in in_threads(2, lambda f: exchange_once(f, [4, 4], 1, bucket_bytes, spoil=spoil)):
            assert [report.weight for report in reports] == [0, 0]
            assert all(p.grad is None for p in model.parameters())

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    def test_a_bad_one_beside_an_empty_one(self, in_threads, bucket_bytes):
        sizes = [0, 6, 2]

        def spoil(rank, model):
            if rank == 1:
                model[0].bias.register_hook(lambda grad: grad / 0)

        expected = good_mean(sizes, 3, 1)
        for model, reports in in_threads(3, lambda f: exchange_once(f, sizes, 3, bucket_bytes, spoil=spoil)):
            assert [report.weight for report in reports] == [0, 0, 2]
            assert relative_error(gradient(model), expected) <= 1e-10

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    def test_large_is_not_infinite(self, in_threads, bucket_bytes):
        """A finite gradient counts even where the sum of all its values overflows."""

        def spoil(rank, model):
            model[0].weight.register_hook(lambda grad: torch.full_like(grad, 2e38))

        [(model, [report])] = in_threads(
            1, lambda f: exchange_once(f, [1], 1, bucket_bytes, dtype=torch.float32, spoil=spoil)
        )
        assert report.weight == 1
        assert torch.equal(model[0].weight.grad, torch.full_like(model[0].weight, 2e38))

    @given(st.lists(st.integers(0, 20), min_size=2, max_size=4), st.data(), st.sampled_from(BUCKETS))
    def test_whoever_is_bad_the_rest_is_exact(self, in_threads, sizes, data, bucket_bytes):
        bad = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
        where = data.draw(st.integers(0, 5))

        def spoil(rank, model):
            if rank in bad:
                list(model.parameters())[where].register_hook(lambda grad: grad * float("inf") - float("inf"))

        good = [0 if rank in bad else size for rank, size in enumerate(sizes)]
        for model, reports in in_threads(len(sizes), lambda f: exchange_once(f, sizes, 2, bucket_bytes, spoil=spoil)):
            assert [report.weight for report in reports] == good
            if sum(good):
                assert relative_error(gradient(model), good_mean(sizes, 2, *bad)) <= 1e-10
            else:
                assert all(p.grad is None for p in model.parameters())


def good_mean(sizes, seed, *bad):
    """What plain torch makes of the batches of all but the bad devices."""
    model = make_model(seed)
    good = [batch for rank, batch in enumerate(make_batches(sizes, seed)) if rank not in bad]
    cross_entropy(model(torch.cat([x for x, _ in good])), torch.cat([y for _, y in good])).backward()
    return gradient(model)


class TestMessages:
    def test_without_overlap_one_message_carries_everything(self):
        [fabric] = LocalFabric.create(1)
        exchange_once(fabric, [4], 0, None)
        assert fabric.collectives == 1

    def test_the_report_travels_in_the_last_bucket(self):
        model = make_model(0)
        exchange = GradientExchange(model.parameters(), lambda *_: None, 0, size=3, bucket_bytes=1)
        values = sum(p.numel() for p in model.parameters()) + 3 * GradientExchange.fields
        assert exchange.message_bytes == 8 * values

    def test_with_overlap_messages_leave_while_backward_runs(self):
        [fabric] = LocalFabric.create(1)
        model, seen = make_model(0), []
        # the first layer's gradient is the last to come; by then those of the layers behind it have left
        model[0].weight.register_hook(lambda grad: seen.append(fabric.collectives))
        exchange = GradientExchange(model.parameters(), fabric.reduce, 0, 1, bucket_bytes=1)
        exchange.begin(2.0, "step 1")
        assert fabric.collectives == 0
        (model(torch.ones(2, INPUTS, dtype=torch.float64)).sum() * 2.0).backward()
        exchange.finish(Report(batch=2, weight=2))
        assert seen[0] >= 4
        assert fabric.collectives == 6

    def test_a_bucket_is_as_large_as_was_asked_for(self):
        [fabric] = LocalFabric.create(1)
        exchange_once(fabric, [4], 0, 8 * 8 * 8)
        # 4 + 32 and 8 values, 64, 8 and 48: one does not fit beside another larger one
        assert fabric.collectives == 3

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    def test_backward_passes_outside_a_step_send_nothing(self, bucket_bytes):
        [fabric] = LocalFabric.create(1)
        model = make_model(0)
        GradientExchange(model.parameters(), fabric.reduce, 0, 1, bucket_bytes)
        model(torch.ones(2, INPUTS, dtype=torch.float64)).sum().backward()
        assert fabric.collectives == 0

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    def test_parameters_without_a_part_in_any_loss_have_no_gradient(self, in_threads, bucket_bytes):
        def work(fabric):
            model = make_model(0)
            exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)
            exchange.begin(1.0, "step 1")
            model[0](torch.ones(1, INPUTS, dtype=torch.float64)).sum().backward()
            exchange.finish(Report(batch=1, weight=1))
            return model

        for model in in_threads(2, work):
            assert torch.equal(model[0].weight.grad, torch.ones(8, INPUTS, dtype=torch.float64))
            assert model[4].weight.grad is None
            assert model[4].bias.grad is None

    def test_frozen_parameters_are_left_out(self):
        [fabric] = LocalFabric.create(1)
        model = make_model(0)
        model[2].requires_grad_(requires_grad=False)
        exchange = GradientExchange(model.parameters(), fabric.reduce, 0, 1)
        exchange.begin(1.0, "step 1")
        model(torch.ones(1, INPUTS, dtype=torch.float64)).sum().backward()
        exchange.finish(Report(batch=1, weight=1))
        assert model[2].weight.grad is None
        assert model[0].weight.grad is not None

    def test_a_lost_device_ends_the_step(self):
        first, second = LocalFabric.create(2, deadline_s=30.0)
        second.close()
        with pytest.raises(FabricError, match="lost device 1 during gradients of step 1"):
            exchange_once(first, [3, 3], 0, None)


class TestWhatIsThere:
    """Which parameters have a gradient anywhere is told by the message of the gradients itself."""

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    @pytest.mark.parametrize("zero", [0.0, -0.0])
    def test_a_gradient_of_zero_on_one_device_is_one_on_all(self, in_threads, bucket_bytes, zero):
        def work(fabric):
            model = make_model(0)
            exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)
            exchange.begin(1.0, "step 1")
            loss = model[0](torch.ones(1, INPUTS, dtype=torch.float64)).sum()
            if fabric.rank == 1:
                loss = loss + (zero * model[2].weight[1:]).sum()
            loss.backward()
            exchange.finish(Report(batch=1, weight=1))
            return model

        for model in in_threads(3, work):
            assert model[2].weight.grad is not None
            assert not model[2].weight.grad.any()
            assert [model[i].weight.grad is None for i in (0, 2, 4)] == [False, False, True]

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    def test_what_one_device_uses_and_an_empty_batch(self, in_threads, bucket_bytes):
        def work(fabric):
            model = make_model(0)
            exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)
            found = []
            for step in range(4):  # device 2 has nothing; in turns one of the others uses all layers, or none does
                weight = 0 if fabric.rank == 2 else 1
                exchange.begin(weight, f"step {step}")
                if weight:
                    layers = model if step % 2 and fabric.rank == step // 2 else model[:2]
                    layers(torch.ones(1, INPUTS, dtype=torch.float64)).sum().backward()
                exchange.finish(Report(batch=weight, weight=weight))
                found.append([p.grad is not None for p in model.parameters()])
            return found

        for found in in_threads(3, work):
            assert found == [[True] * 2 + [False] * 4, [True] * 6, [True] * 2 + [False] * 4, [True] * 6]

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    def test_a_parameter_without_elements(self, bucket_bytes):
        [fabric] = LocalFabric.create(1)
        empty, full = nn.Parameter(torch.ones(0)), nn.Parameter(torch.ones(2))
        exchange = GradientExchange([empty, full], fabric.reduce, 0, 1, bucket_bytes)
        exchange.begin(1.0, "step 1")
        (empty.sum() + full.sum()).backward()
        exchange.finish(Report(batch=1, weight=1))
        assert full.grad.tolist() == [1.0, 1.0]


class TestPlan:
    """Parameters that begin to require gradients while training."""

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    def test_freeze_unfreeze_and_freeze_again(self, in_threads, bucket_bytes):
        sizes = [3, 0, 5]

        def work(fabric):
            model = make_model(0)
            model[2].requires_grad_(False)
            exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)
            messages, found = [], []
            for step in range(6):
                model[2].requires_grad_(step in (2, 3, 5))
                before = fabric.collectives
                x, y = make_batches(sizes, step)[fabric.rank]
                exchange.begin(len(x), f"step {step}")
                if len(x):
                    (cross_entropy(model(x), y) * len(x)).backward()
                reports = exchange.finish(Report(batch=len(x), weight=len(x)))
                assert [(report.batch, report.weight, report.redo) for report in reports] == [(n, n, 0) for n in sizes]
                messages.append(fabric.collectives - before)
                found.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
            return messages, found, len(exchange.parameters)

        outcomes = in_threads(3, work)
        for step in range(6):
            model, batches = make_model(0), make_batches(sizes, step)
            model[2].requires_grad_(step in (2, 3, 5))
            cross_entropy(model(torch.cat([x for x, _ in batches])), torch.cat([y for _, y in batches])).backward()
            for _, found, count in outcomes:
                assert count == 6
                for p, mine in zip(model.parameters(), found[step], strict=True):
                    if p.grad is None:
                        assert mine is None
                    else:
                        assert relative_error(mine, p.grad) <= 1e-10
        for messages, _, _ in outcomes:
            one, two, three = messages[0], messages[2], messages[3]
            assert messages == [one, one, one + three, three, three, three], "one message more where all agree"
            assert two == one + three

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    @pytest.mark.parametrize("unfreezes", [{0: 2}, {0: 2, 1: 2, 2: 0}])
    def test_devices_that_do_not_agree_say_so_all_of_them(self, in_threads, bucket_bytes, unfreezes):
        def work(fabric):
            model = make_model(0)
            for layer in (0, 2):
                model[layer].requires_grad_(False)
            exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)
            if fabric.rank in unfreezes:
                model[unfreezes[fabric.rank]].requires_grad_(True)
            exchange.begin(1.0, "gradients of step 7")
            model(torch.ones(1, INPUTS, dtype=torch.float64)).sum().backward()
            with pytest.raises(RunError) as caught:
                exchange.finish(Report(batch=1, weight=1))
            return str(caught.value)

        said = in_threads(3, work)
        other = 0 if len(unfreezes) == 1 else 2
        assert said[0].startswith(f"gradients of step 7: on devices [{other}] other parameters require gradients")
        assert len(set(said)) == 1

    @pytest.mark.parametrize("bucket_bytes", BUCKETS)
    def test_a_new_parameter_and_a_gradient_that_is_not_finite(self, in_threads, bucket_bytes):
        def work(fabric):
            model, centres = make_model(0), nn.Parameter(torch.ones(CLASSES, dtype=torch.float64))
            exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)
            exchange.manage([*model.parameters(), centres])
            exchange.begin(1.0, "step 1")
            outputs = model(torch.ones(1, INPUTS, dtype=torch.float64))
            (outputs @ centres * (float("nan") if fabric.rank == 0 else 1.0)).sum().backward()
            reports = exchange.finish(Report(batch=1, weight=1))
            assert reports.weight.tolist() == [0, 1, 1]
            return centres.grad, outputs.detach()[0]

        for gradient, expected in in_threads(3, work):
            assert relative_error(gradient, expected) <= 1e-12


class TestParameters:
    def test_none_to_train_is_refused(self):
        with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
            GradientExchange([nn.Parameter(torch.ones(2), requires_grad=False)], lambda *_: None, 0, 1)

    def test_mixed_dtypes_are_refused(self):
        mixed = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))]
        with pytest.raises(ConfigError, match=r"torch\.float32 on cpu, torch\.float64 on cpu"):
            GradientExchange(mixed, lambda *_: None, 0, 1)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_refused(self, dtype):
        with pytest.raises(ConfigError, match="keep them in float32"):
            GradientExchange([nn.Parameter(torch.ones(2, dtype=dtype))], lambda *_: None, 0, 1)


GLOO_CASES = [
    ([64, 12, 40, 90], 1),
    ([1024, 1, 1, 1], 2),
    ([0, 30, 0, 7], 3),
    ([0, 0, 0, 0], 4),
    ([0, 0, 0, 5], 5),
    ([613, 1024, 0, 8], 6),
]


@pytest.mark.parametrize("size", [3, 4])
def test_real_processes_agree_with_plain_torch(in_processes, size):
    outcomes = in_processes(__file__, size)
    assert [code for code, _ in outcomes] == [0] * size
    said = [json.loads(text) for _, text in outcomes]
    for case, results in enumerate(zip(*said, strict=True)):
        sizes = GLOO_CASES[case // len(BUCKETS)][0][-size:]
        for result in results:
            assert result["weights"] == sizes
            assert result["gradient"] == results[0]["gradient"], "all devices hold the same bits"
            assert (result["error"] is None) == (sum(sizes) == 0)
            if result["error"] is not None:
                assert result["error"] <= 1e-5
            assert result["bad_weights"] == [0 if rank == 1 else size for rank, size in enumerate(sizes)]
            assert result["bad_finite"]


def on_gloo():
    fabric = TorchFabric("gloo", 30.0, torch.device("cpu"), sleep=WallClock().sleep)

    def spoil(rank, model):
        if rank == 1:
            model[0].weight.register_hook(lambda grad: grad * float("nan"))

    results = []
    for all_sizes, seed in GLOO_CASES:
        sizes = all_sizes[-fabric.size :]
        for bucket_bytes in BUCKETS:
            model, reports = exchange_once(fabric, sizes, seed, bucket_bytes, torch.float32)
            spoilt, bad_reports = exchange_once(fabric, sizes, seed, bucket_bytes, torch.float32, spoil)
            total = sum(sizes)
            bits = sha256(gradient(model).numpy().tobytes()).hexdigest() if total else None
            expected = union_gradient(sizes, seed).float() if total else None
            results.append(
                {
                    "weights": [report.weight for report in reports],
                    "gradient": bits,
                    "error": relative_error(gradient(model), expected) if total else None,
                    "bad_weights": [report.weight for report in bad_reports],
                    "bad_finite": all(bool(p.grad.isfinite().all()) for p in spoilt.parameters() if p.grad is not None),
                }
            )
    fabric.gather(torch.zeros(1), "leaving together")
    fabric.close()
    return results


if __name__ == "__main__":
    print(json.dumps(on_gloo()), flush=True)
    os._exit(0)
