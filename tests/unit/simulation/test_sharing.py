"""Simulated devices that share samples: the same gradient whichever way it is made, and what it takes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from scadles.errors import ConfigError
from scadles.observe import RunFolder
from scadles.records import Span
from scadles.simulation import simulate
from scadles.simulation.batchnorm import ClusterStatistics
from scadles.simulation.collectives import share_by_hub, share_directly
from scadles.simulation.gradients import FusedGradients
from scadles.simulation.injected import SampleMessage, SampleMessages
from scadles.simulation.per_device import LoopedGradients
from small_tasks import classification

DEVICES = 5
TASK = classification(3)
OWN = [6, 0, 9, 4, 1]  # device 1 has nothing of its own


def message(number, first, places):
    places = np.array(places)
    return SampleMessage(number, Span(first, 10), places, first + places)


def sample_messages():
    return SampleMessages([message(0, 0, [1, 4]), message(2, 6, [0, 3, 8]), message(3, 9, [])])


def model():
    generator = torch.Generator().manual_seed(0)
    made = nn.Sequential(nn.Flatten(), nn.Linear(36, 7), nn.Tanh(), nn.Linear(7, 3))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 4)
    return made


@pytest.mark.parametrize("mean", ["weighted", "plain"])
@pytest.mark.parametrize("way", ["fused", "looped"])
def test_the_sum_is_that_of_plain_torch(learner_of, lookup_of, take, mean, way):
    learner = learner_of(model(), DEVICES, mean)
    lookup = lookup_of(learner, DEVICES)
    looped = LoopedGradients(learner, lookup, TASK, ClusterStatistics(learner.model, DEVICES))
    gradients = looped if way == "looped" else FusedGradients(learner, lookup, looped, TASK)
    taken = take(OWN)
    learner.exchange.begin(1.0, "gradients")
    shares = gradients.add_up(list(range(DEVICES)), taken, sample_messages())
    found = [p.grad.clone() for p in learner.exchange.parameters]

    shared = {0: [1, 4], 2: [6, 9, 14]}
    expected = [torch.zeros_like(p) for p in learner.exchange.parameters]
    for device in range(DEVICES):
        parts = [lookup([device], [taken[device]])] if OWN[device] else []
        parts += [lookup([d], [Span(o, 1)]) for d, offsets in shared.items() if d != device for o in offsets]
        x, y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
        loss = cross_entropy(learner.model(x), y)
        weight = len(y) if mean == "weighted" else 1
        assert (shares.weights[device], shares.losses[device]) == (weight, pytest.approx(loss.item()))
        for total, part in zip(expected, torch.autograd.grad(loss * weight, learner.exchange.parameters), strict=True):
            total += part
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_a_giver_that_went_off_still_counts_for_the_others(learner_of, lookup_of, take):
    """It gives its own samples back; what it had shared is trained on by those who got it."""
    learner = learner_of(model(), DEVICES)
    lookup = lookup_of(learner, DEVICES)
    looped = LoopedGradients(learner, lookup, TASK, ClusterStatistics(learner.model, DEVICES))
    numbers, taken = [1, 3, 4], [take(OWN)[i] for i in (1, 3, 4)]
    sums = []
    for way in (looped, FusedGradients(learner, lookup, looped, TASK)):
        learner.exchange.begin(1.0, "gradients")
        shares = way.add_up(numbers, taken, sample_messages())
        assert shares.weights.tolist() == [5, 9, 6]
        sums.append(torch.cat([p.grad.flatten().clone() for p in learner.exchange.parameters]))
    torch.testing.assert_close(*sums, rtol=1e-10, atol=1e-12)


class TestTime:
    def test_copies_share_the_senders_link(self):
        fast = np.full(5, np.inf)
        up = np.array([8e3, np.inf, np.inf, np.inf, np.inf])
        at_s, sent = share_directly(np.array([1000]), np.array([1.0]), np.array([0]), up, fast, np.full(5, 0.5))
        assert at_s.tolist() == [-np.inf, 5.5, 5.5, 5.5, 5.5]
        assert sent == 4000

    def test_messages_share_the_receivers_link(self):
        down = np.array([np.inf, np.inf, 8e3])
        sizes, sent_s = np.array([1000, 2000]), np.array([1.0, 4.0])
        at_s, _ = share_directly(sizes, sent_s, np.array([0, 1]), np.full(3, np.inf), down, np.zeros(3))
        assert at_s.tolist() == [4.0, 1.0, 7.0]

    def test_a_hub_gets_each_message_once(self):
        slow = np.full(4, 8e3)
        at_s, sent = share_by_hub(np.array([1000]), np.array([2.0]), np.array([1]), slow, slow, np.full(4, 0.25))
        assert at_s.tolist() == [4.5, -np.inf, 4.5, 4.5]
        assert sent == 4000

    @given(st.integers(2, 6), st.data())
    def test_free_links_bring_everything_when_the_last_sender_has_sent(self, n, data):
        senders = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1))))
        sent_s = np.array(data.draw(st.lists(st.floats(0, 100), min_size=len(senders), max_size=len(senders))))
        sizes, free = np.full(len(senders), 10), np.full(n, np.inf)
        for way in (share_directly, share_by_hub):
            at_s = way(sizes, sent_s, senders, free, free, np.zeros(n)).at_s
            for device in range(n):
                assert at_s[device] == sent_s[senders != device].max(initial=-np.inf)


def run(folder, **settings):
    given = {
        "devices": 4,
        "steps": 6,
        "seed": 1,
        "model": "none",
        "picture": False,
        "stream": {"rates": [40, 20, 30, 10]},
        "injection": {"alpha": 0.5, "beta": 0.5},
    }
    return simulate(given | settings, out=folder, quiet=True), RunFolder(folder)


def test_devices_wait_for_the_senders_and_pay_for_what_they_send(tmp_path):
    free, freely = run(tmp_path / "free")
    paid, slowly = run(tmp_path / "paid", cost={"link": {"up_bps": 8e4, "down_bps": 8e4}})
    for device in range(4):
        assert all(step.sync_s < 1e-6 for step in freely.steps(device)[1:])
        assert any(step.sync_s > 0 for step in slowly.steps(device))
    for summary in (free, paid):
        assert summary.shared.sent_bytes == 3 * summary.shared.payload_bytes > 0
        gradients = 6 * 2 * 3 * summary.simulated.message_bytes  # a ring of four
        assert summary.bytes_sent == gradients + summary.shared.sent_bytes


def test_a_star_sends_each_message_up_once(tmp_path):
    summary, _ = run(tmp_path, cost={"collective": "star"})
    assert summary.shared.sent_bytes == summary.shared.payload_bytes > 0


def test_who_is_off_shares_nothing_and_nobody_waits(tmp_path):
    off = {"windows_s": [[0, 2], [1000, 1001]]}
    always = {"windows_s": [[0, 10000]]}
    summary, folder = run(
        tmp_path, cost={"availability": [always, off, always, off]}, injection={"alpha": 1, "beta": 0.5}
    )
    assert summary.steps == 6
    later = [step for device in (0, 2) for step in folder.steps(device) if step.time_s > 3]
    assert later
    assert all(step.injected for step in later)
    assert all(step.injected <= 20 for step in later), "only the two that are on share"


def test_a_large_cluster_shares_without_a_copy_for_each_receiver(tmp_path):
    summary, _ = run(tmp_path, devices=400, steps=3, model="mlp", stream={"rates": 8.0}, data={"partition": "shared"})
    assert summary.samples.injected == 399 * summary.shared.samples > 900_000
    assert summary.samples.received == summary.samples.trained + summary.samples.held + summary.samples.dropped


def test_a_label_that_does_not_exist_is_refused_before_anything_is_sent(tmp_path):
    injection = {"alpha": 0.5, "beta": 0.5, "refuse_labels": [12]}
    with pytest.raises(ConfigError, match=r"injection.refuse_labels names label 12: labels of digits are 0 to 9"):
        run(tmp_path, injection=injection)
