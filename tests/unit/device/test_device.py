import math

import pytest
import torch
from torch.nn.functional import cross_entropy

import small_devices
from scadles.device.batching import FixedBatch, RateBatch
from scadles.device.buffer import Truncation
from scadles.errors import PeerLostError, RunError
from scadles.fabric import LocalFabric
from small_devices import make_model, samples_of

samples = samples_of(0)


def make_device(fabric, *, rate_hz=20.0, rule=None, **more):
    rule = rule or FixedBatch(8, max_wait_s=5.0)
    return small_devices.make_device(fabric, rate_hz=rate_hz, rule=rule, momentum=0.9, **more)


def alone(**settings):
    device = make_device(LocalFabric.create(1)[0], **settings)
    device.start()
    return device


def loss_of(device, batch, value=1.0):
    return cross_entropy(device.learner.model(batch.x), batch.y) * value


def weights(device):
    return torch.cat([p.detach().flatten().clone() for p in device.learner.model.parameters()])


class TestGather:
    def test_waits_for_a_full_batch(self):
        device = alone(rate_hz=20.0)
        batch = device.gather()
        assert len(batch) == len(batch.x) == len(batch.y) == 8
        assert batch.offsets.tolist() == list(range(8))
        assert torch.equal(batch.x, samples(batch.offsets)[0])
        assert device.clock.now() == pytest.approx(0.4)

    def test_goes_on_with_less_at_the_deadline(self):
        device = alone(rate_hz=1.0)
        batch = device.gather()
        assert (len(batch), device.clock.now()) == (5, pytest.approx(5.0))

    def test_goes_on_with_nothing_from_a_silent_stream(self):
        device = alone(rate_hz=0.0)
        assert len(device.gather()) == 0
        assert device.clock.now() == pytest.approx(5.0)

    def test_the_deadline_counts_from_the_last_take(self):
        device = alone(rate_hz=0.0)
        device.gather()
        device.step(None)
        device.clock.sleep(4.0)
        device.gather()
        assert device.clock.now() == pytest.approx(10.0)

    def test_takes_one_window_of_the_stream(self):
        device = alone(rate_hz=40.0, rule=RateBatch(1.0, 8, 1024), policy=Truncation(1.0))
        sizes = []
        for _ in range(5):
            batch = device.gather()
            sizes.append(len(batch))
            device.step(loss_of(device, batch))
        # the first one comes before the rate is known: it aims at the least
        assert sizes[1:] == [40, 40, 40, 40]
        assert sizes[0] <= 40

    def test_ends_early_when_told_to(self):
        device = alone(rate_hz=1.0)
        asked = []

        def should_stop():
            asked.append(device.clock.now())
            return device.clock.now() >= 2.0

        batch = device.gather(should_stop)
        assert (len(batch), device.clock.now()) == (2, pytest.approx(2.0))
        assert len(asked) > 2, "it is asked again and again while waiting"

    def test_says_what_it_waits_for(self):
        device, said = alone(rate_hz=4.0), []
        device.gather(on_wait=lambda held, target: said.append((held, target)))
        assert said[0] == (0, 8)
        assert [held for held, _ in said] == sorted(held for held, _ in said)
        assert said[-1][0] >= 4

    def test_one_sample_waits_for_a_second_where_batchnorm_needs_two(self):
        device = alone(rate_hz=0.25, norm=True)
        assert len(device.gather()) == 0
        assert device.intake.held == 1
        device.step(None)
        batch = device.gather()
        assert batch.offsets.tolist() == [0, 1]
        device.step(loss_of(device, batch))
        assert device.intake.describe()["trained"] == 2

    def test_what_is_given_back_comes_again(self):
        device = alone()
        first = device.gather()
        device.undo_collect()
        event, _ = device.step(None)
        assert (event.batch, event.total_batch, event.offsets, event.loss) == (0, 0, None, None)
        assert device.gather().offsets.tolist() == first.offsets.tolist()
        device.intake.describe()


class TestStep:
    def test_is_plain_training_for_a_device_alone(self):
        device, twin = alone(), make_model()
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
        for number in range(1, 6):
            batch = device.gather()
            loss = loss_of(device, batch)
            event, stop = device.step(loss)
            assert (event.step, event.batch, event.total_batch, stop) == (number, 8, 8, False)
            assert event.loss == pytest.approx(float(loss.detach()))
            assert event.offsets == (8 * (number - 1), 8 * number - 1)
            assert (event.lr, event.lr_scale) == (0.1, 1.0)
            optimizer.zero_grad()
            cross_entropy(twin(batch.x), batch.y).backward()
            optimizer.step()
        expected = torch.cat([p.detach().flatten() for p in twin.parameters()])
        torch.testing.assert_close(weights(device), expected, rtol=1e-12, atol=1e-12)
        assert device.learner.samples_seen == device.intake.ledger.trained == 40
        assert device.learner.time_s == pytest.approx(2.0)

    def test_unequal_devices_hold_the_same_model(self, in_threads):
        """One is fast, one slow, one silent: everybody steps, with the batch that the stream gave."""
        rates = [40.0, 1.0, 0.0]

        def work(fabric):
            device = make_device(fabric, rate_hz=rates[fabric.rank])
            device.start()
            events = []
            for _ in range(4):
                batch = device.gather()
                events.append(device.step(loss_of(device, batch) if len(batch) else None)[0])
            return device, events

        outcomes = in_threads(3, work)
        for device, events in outcomes:
            assert torch.equal(weights(device), weights(outcomes[0][0]))
            assert [event.total_batch for event in events] == [13] * 4
            assert [event.loss for event in events] == [event.loss for event in outcomes[0][1]]
            assert [event.lr for event in events] == [pytest.approx(0.1 * 13 / 24)] * 4
            assert device.learner.samples_seen == 4 * 13
        assert [event.batch for _, events in outcomes for event in events] == [8] * 4 + [5] * 4 + [0] * 4
        assert {event.slowest for _, events in outcomes for event in events} <= {1, 2}

    @pytest.mark.parametrize("bucket_bytes", [None, 1])
    @pytest.mark.parametrize("bad", ["loss", "gradient", "infinite loss"])
    def test_a_device_that_is_not_finite_is_left_out(self, in_threads, bad, bucket_bytes):
        """The others go on as though it had had no batch, and its samples are counted as rejected."""

        def run(fabric, *, broken):
            device = make_device(fabric, norm=True, bucket_bytes=bucket_bytes)
            device.start()
            for number in range(3):
                batch = device.gather()
                spoilt = fabric.rank == 1 and number == 1
                if spoilt and not broken:
                    device.intake.settle(trained=False)
                    device._taken = None
                    device.undo_collect()
                    device.step(None)
                    continue
                factor = {"loss": math.nan, "infinite loss": math.inf}.get(bad, 1.0) if spoilt else 1.0
                if spoilt and bad == "gradient":
                    device.learner.model[0].bias.register_hook(lambda grad: grad * math.nan)
                before = device.non_finite_steps
                event, _ = device.step(loss_of(device, batch, factor))
                assert device.non_finite_steps == before + spoilt
                if number == 1:
                    assert event.total_batch == 16
                    assert math.isfinite(event.loss)
                    assert event.batch == (0 if spoilt else 8)
                if spoilt and bad == "gradient":
                    device.learner.model[0].bias._backward_hooks.clear()
            device.average_batchnorm()
            return device

        broken = in_threads(3, lambda fabric: run(fabric, broken=True))
        without = in_threads(3, lambda fabric: run(fabric, broken=False))
        for device, other in zip(broken, without, strict=True):
            for name, tensor in device.learner.model.state_dict().items():
                assert bool(tensor.isfinite().all()), name
                torch.testing.assert_close(tensor, other.learner.model.state_dict()[name], rtol=1e-10, atol=1e-12)
            assert torch.equal(weights(device), weights(broken[0]))
        ledgers = [device.intake.describe() for device in broken]
        assert [ledger["rejected"] for ledger in ledgers] == [0, 8, 0]
        assert [ledger["trained"] for ledger in ledgers] == [24, 16, 24]

    def test_samples_that_break_the_statistics_of_batchnorm_leave_no_trace(self, in_threads):
        def work(fabric):
            device = make_device(fabric, norm=True)
            device.start()
            batch = device.gather()
            x = batch.x if fabric.rank else torch.full_like(batch.x, 1e200)
            model = device.learner.model
            device.step(cross_entropy(model(x) * (math.nan if fabric.rank == 0 else 1.0), batch.y))
            device.average_batchnorm()
            return model

        one, other = in_threads(2, work)
        for name, tensor in one.state_dict().items():
            assert bool(tensor.isfinite().all()), name
            assert torch.equal(tensor, other.state_dict()[name])

    def test_nobody_has_anything(self, in_threads):
        def work(fabric):
            device = make_device(fabric, rate_hz=0.0)
            device.start()
            before = weights(device)
            device.gather()
            event, _ = device.step(None)
            return before, weights(device), event

        for before, after, event in in_threads(2, work):
            assert torch.equal(before, after)
            assert (event.total_batch, event.loss, event.lr) == (0, None, 0.1)

    def test_one_wish_to_stop_reaches_all(self, in_threads):
        def work(fabric):
            device = make_device(fabric)
            device.start()
            stops = []
            for number in range(2):
                batch = device.gather()
                stops.append(device.step(loss_of(device, batch), stop=fabric.rank == 1 and number == 1)[1])
            return stops

        assert in_threads(3, work) == [[False, True]] * 3

    def test_the_plain_mean_ignores_sizes(self, in_threads):
        rates = [40.0, 1.0]

        def work(fabric):
            device = make_device(fabric, rate_hz=rates[fabric.rank], mean="plain")
            device.start()
            batch = device.gather()
            model = make_model()
            cross_entropy(model(batch.x), batch.y).backward()
            own = torch.cat([p.grad.flatten() for p in model.parameters()])
            before = weights(device)
            event, _ = device.step(loss_of(device, batch))
            return own, (before - weights(device)) / event.lr

        (own, moved), (other, _) = in_threads(2, work)
        torch.testing.assert_close(moved, (own + other) / 2, rtol=1e-10, atol=1e-12)

    def test_one_message_carries_everything(self, in_threads):
        def work(fabric):
            device = make_device(fabric)
            device.start()
            before = fabric.collectives
            for _ in range(5):
                device.step(loss_of(device, device.gather()))
            return fabric.collectives - before

        assert in_threads(2, work) == [5, 5]

    def test_needs_a_batch(self):
        device = alone()
        with pytest.raises(RunError, match=r"step\(\) needs a batch"):
            device.step(None)
        batch = device.gather()
        device.step(loss_of(device, batch))
        with pytest.raises(RunError, match=r"step\(\) needs a batch"):
            device.step(None)

    def test_needs_a_mean_loss(self):
        device = alone()
        batch = device.gather()
        losses = cross_entropy(device.learner.model(batch.x), batch.y, reduction="none")
        with pytest.raises(RunError, match=r"must be the mean over the batch.*shape \(8,\)"):
            device.step(losses)

    def test_a_lost_device_leaves_the_model_as_it_was(self):
        first, second = LocalFabric.create(2, deadline_s=30.0)
        device = make_device(first)
        before = weights(device)
        batch = device.gather()
        second.close()
        with pytest.raises(PeerLostError, match="lost device 1 during gradients of step 1"):
            device.step(loss_of(device, batch))
        assert torch.equal(weights(device), before)
        assert device.learner.step_number == device.learner.samples_seen == 0


class TestState:
    def test_counters_survive(self):
        device = alone()
        device.step(loss_of(device, device.gather()))
        again = make_device(LocalFabric.create(1)[0], lr=0.5)
        again.load(device.state())
        assert again.state() == device.state()
        assert again.state()["base_lrs"] == [0.1]

    def test_the_learning_rate_does_not_wander_from_step_to_step(self):
        device = alone(rate_hz=20.0)
        device.learner.learning_rate.base_batch = 32
        rates = [device.step(loss_of(device, device.gather()))[0].lr for _ in range(4)]
        assert rates == [pytest.approx(0.1 / 4)] * 4


class TestTheEnd:
    def ending(self, records, **more):
        device = alone(records=records, **more)
        batches = []
        while not device.all_ended:
            batch = device.gather()
            batches.append(len(batch))
            device.step(loss_of(device, batch) if len(batch) else None)
        return device, batches

    def test_the_last_batch_is_what_is_left(self):
        device, batches = self.ending(20)
        assert batches == [8, 8, 4]
        assert device.clock.now() == pytest.approx(1.0)
        assert device.intake.describe()["trained"] == 20

    def test_a_last_batch_that_is_full_is_followed_by_none(self):
        assert self.ending(16)[1] == [8, 8]

    def test_a_sample_that_would_be_alone_in_the_last_batch_of_a_model_with_batchnorm_goes_with_those_before(self):
        device, batches = self.ending(17, norm=True, waits=True)
        assert batches == [8, 9]
        assert device.intake.describe()["trained"] == 17

    def test_a_single_sample_that_comes_alone_cannot_be_trained_on(self):
        device, batches = self.ending(1, norm=True)
        assert batches == [0]
        device.intake.drop_held()
        assert device.intake.describe() == {
            **dict.fromkeys(("trained", "held", "rejected", "injected", "unlabelled", "tested"), 0),
            **dict.fromkeys(("received", "dropped"), 1),
        }

    def test_a_stream_that_had_ended_before_ends_the_run_at_once(self):
        assert alone(records=0).all_ended

    def test_who_has_ended_has_nothing_until_all_have(self, in_threads):
        def work(fabric):
            device = make_device(fabric, records=[10, 40][fabric.rank])
            device.start()
            sizes = []
            while not device.all_ended:
                batch = device.gather()
                sizes.append(len(batch))
                device.step(loss_of(device, batch) if len(batch) else None)
            return sizes, weights(device)

        (few, mine), (many, theirs) = in_threads(2, work)
        assert few == [8, 2, 0, 0, 0]
        assert many == [8] * 5
        assert torch.equal(mine, theirs)
