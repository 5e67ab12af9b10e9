"""The hook for DistributedDataParallel; run as a script, this file is one device of a gloo group."""

import copy
import json
import math
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from scadles.errors import CheckpointError, ConfigError
from scadles.exchange.compression import ErrorFeedback, MomentumCorrection
from scadles.exchange.ddp_hook import HookState, ddp_hook

DEVICES = 3
BATCHES = [3, 8, 5]


@pytest.fixture(scope="module")
def said(in_processes):
    """What three devices found; one start for all of it."""
    outcomes = in_processes(__file__, DEVICES)
    assert [code for code, _ in outcomes] == [0] * DEVICES
    return [json.loads(output) for _, output in outcomes]


def test_everything_sent_is_plain_ddp(said):
    assert all(device["difference from plain DDP"] < 1e-6 for device in said)


def test_all_entries_as_messages_are_plain_ddp(said):
    assert all(device["difference of messages"] < 1e-6 for device in said)


def test_weights_give_the_gradient_of_the_union_batch(said):
    for device in said:
        assert device["difference from the union"] < 1e-6
        assert device["difference with an empty batch"] < 1e-6


@pytest.mark.parametrize("how", ["plain", "int8", "momentum"])
def test_nothing_is_lost(said, how):
    for device in said:
        found = device[f"conservation, {how}"]
        assert found["layouts"] > 1  # DDP has dealt out the parameters anew
        assert found["kept"] > 0.01
        assert found["lost"] < 1e-5


def test_few_entries_still_learn(said):
    for device in said:
        assert device["loss"]["last"] < 0.5 * device["loss"]["first"]
    assert len({device["loss"]["parameters"] for device in said}) == 1  # to the bit


def test_what_is_not_finite_is_left_out(said):
    for rank, device in enumerate(said):
        assert device["not finite"]["difference from the others"] < 1e-6
        assert device["not finite"]["all of them"] == "nan"
        assert device["not finite"]["left out"] > 0 if rank == 0 else True


def test_few_bytes_where_they_are_fewer(said):
    for device in said:
        assert device["dense"] == {"0.01": False, "1.0": True}


@pytest.mark.parametrize(("settings", "named"), [({"ratio": 0}, "ratio"), ({"ratio": 1, "value_type": "int4"}, "int4")])
def test_what_cannot_be_is_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        HookState(**settings)


@pytest.mark.parametrize("size", [-1, math.nan, math.inf])
def test_a_batch_size_that_cannot_be_is_refused_where_it_is_set(size):
    state = HookState(0.1)
    with pytest.raises(ConfigError, match=f"batch_size = {size:g}: the samples of this device's batch"):
        state.batch_size = size
    assert state.batch_size is None


@pytest.mark.parametrize("way", ["messages", "dense"])
def test_a_batch_size_on_some_devices_only_is_an_error_on_all(said, way):
    for device in said:
        assert "batch_size is set on 1 of 3 devices" in device["one batch size"][way]


def test_a_message_of_another_step_is_an_error_on_all(said):
    assert "device 1 sent a message of step 2, this is step 1" in said[0]["another step"]
    for device in said[1:]:
        assert "device 0 sent a message of step 1, this is step 2" in device["another step"]


def test_a_foreign_checkpoint_is_refused():
    layer = nn.Linear(2, 1)
    state = HookState(0.1)
    with pytest.raises(CheckpointError, match="belong to no parameter"):
        state.load_state_dict(layer.named_parameters(), {"other/residual": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="does not fit"):
        state.load_state_dict(layer.named_parameters(), {"weight/residual": torch.zeros(3)})


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(30, 80), nn.Tanh(), nn.Linear(80, 80), nn.Tanh(), nn.Linear(80, 5))


def samples(rank, step, size):
    generator = torch.Generator().manual_seed(100 * step + rank)
    x = torch.randn(size, 30, generator=generator)
    return x, (x[:, :5] + 0.3 * x[:, 5:10]).argmax(1)


def wrapped(state=None, model=None, layouts=None):
    """A model of several buckets, which DDP rebuilds after the first step."""
    model = DistributedDataParallel(model or network(), bucket_cap_mb=0.02)

    def recording(state, bucket):
        if layouts is not None:
            layouts.add(tuple(map(id, bucket.parameters())))
        return ddp_hook(state, bucket)

    if state is not None:
        model.register_comm_hook(state, recording)
    return model


def backward(model, x, y):
    model.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    return float(loss)


def flat_gradient(model):
    return torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])


def difference(one, other):
    return float((one - other).abs().max() / other.abs().max())


def compare_with_plain(rank, state):
    ours, plain = wrapped(state), wrapped()
    worst = 0.0
    for step in range(4):
        for model in (ours, plain):
            backward(model, *samples(rank, step, 8))
        worst = max(worst, difference(flat_gradient(ours), flat_gradient(plain)))
        for model in (ours, plain):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
    return worst


class OnlyMessages(HookState):
    """Sends messages, though sending all is dearer so."""

    def _new_slot(self, parameters):
        slot = super()._new_slot(parameters)
        slot.dense = False
        return slot


def union_gradient(parts):
    model = network()
    x, y = (torch.cat(column) for column in zip(*parts, strict=True))
    backward(model, x, y)
    return flat_gradient(model)


def compare_with_union(rank, batches):
    state = HookState(1.0, value_type="float32")
    model = wrapped(state)
    worst = 0.0
    for step in range(3):
        parts = [samples(other, step, size) for other, size in enumerate(batches)]
        state.batch_size = batches[rank]
        backward(model, *parts[rank])
        worst = max(worst, difference(flat_gradient(model), union_gradient(parts)))
    return worst


def conservation(rank, make_state, momentum=0.0):
    """Add up gradients, what came of them and what is kept, before and after going on from a checkpoint."""
    layouts, state, model = set(), make_state(), network()
    given = sent = velocity = torch.zeros(1)
    for step in range(8):
        if step in (0, 5):
            saved = state.state_dict(model.named_parameters())
            state = make_state()
            state.load_state_dict(model.named_parameters(), saved)
            parallel = wrapped(state, model, layouts)
        x, y = samples(rank, step, BATCHES[rank])
        twin = copy.deepcopy(model)
        backward(twin, x, y)
        velocity = momentum * velocity + flat_gradient(twin) * len(x)
        given = given + velocity
        state.batch_size = len(x)
        backward(parallel, x, y)
        sent = sent + flat_gradient(model) * sum(BATCHES)
    residuals = [state.state_dict([item])[f"{item[0]}/residual"] for item in model.named_parameters()]
    kept = torch.cat(residuals)
    both = torch.stack([given, kept])
    dist.all_reduce(both)
    given, kept = both
    scale = float(given.abs().max())
    return {
        "layouts": len(layouts),
        "kept": float(kept.abs().max()) / scale,
        "lost": float((sent + kept - given).abs().max()) / scale,
    }


def learn(rank):
    model = wrapped(HookState(0.02))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = []
    for step in range(60):
        losses.append(backward(model, *samples(rank, step, 32)))
        optimizer.step()
    total = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    return {"first": losses[0], "last": sum(losses[-5:]) / 5, "parameters": total.view(torch.int32).sum().item()}


def leave_out(rank):
    state = HookState(1.0, value_type="float32")
    model = wrapped(state)
    parts = [samples(other, 0, 8) for other in range(DEVICES)]
    x, y = parts[rank]
    backward(model, x * math.nan if rank == 0 else x, y)
    worst = difference(flat_gradient(model), union_gradient(parts[1:]))
    backward(model, x * math.nan, y)
    everything = flat_gradient(model)
    return {
        "difference from the others": worst,
        "all of them": "nan" if bool(everything.isnan().all()) else "numbers",
        "left out": state.left_out,
    }


def refused(model, rank):
    try:
        backward(model, *samples(rank, 0, 8))
    except RuntimeError as error:
        return str(error)
    return "nothing"


def one_batch_size(rank, state):
    model = wrapped(state)
    state.batch_size = 8 if rank == 1 else None
    return refused(model, rank)


def another_step(rank):
    """Device 0 forgets how far it is."""
    state, model = OnlyMessages(1.0), DistributedDataParallel(nn.Linear(30, 5))
    model.register_comm_hook(state, ddp_hook)
    for step in range(2):  # DDP deals the parameters out anew after the first
        backward(model, *samples(rank, step, 8))
    if rank == 0:
        state.load_state_dict(model.named_parameters(), state.state_dict(model.named_parameters()))
    return refused(model, rank)


def is_dense(rank, ratio):
    state = HookState(ratio, value_type="float32")
    model = wrapped(state)
    backward(model, *samples(rank, 0, 8))
    [dense] = {slot.dense for slot in state._slots.values()}
    return dense


def device():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    kinds = {
        "plain": (lambda: HookState(0.05, value_type="float32"), 0.0),
        "int8": (lambda: HookState(0.05), 0.0),
        "momentum": (lambda: HookState(0.05, feedback=lambda n: MomentumCorrection(ErrorFeedback(n), n, 0.5)), 0.5),
    }
    found = {
        "difference from plain DDP": compare_with_plain(rank, HookState(1.0, value_type="float32")),
        "difference of messages": compare_with_plain(rank, OnlyMessages(1.0, value_type="float32")),
        "difference from the union": compare_with_union(rank, BATCHES),
        "difference with an empty batch": compare_with_union(rank, [4, 0, 7]),
        **{f"conservation, {name}": conservation(rank, *kind) for name, kind in kinds.items()},
        "loss": learn(rank),
        "not finite": leave_out(rank),
        "one batch size": {
            "messages": one_batch_size(rank, OnlyMessages(1.0)),
            "dense": one_batch_size(rank, HookState(1.0)),
        },
        "another step": another_step(rank),
        "dense": {str(ratio): is_dense(rank, ratio) for ratio in (0.01, 1.0)},
    }
    print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    device()
    sys.exit(0)
