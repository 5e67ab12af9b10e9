import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scadles.errors import DivergedError
from scadles.training.fingerprint import agree, fingerprint


def make_model(value=0.5, dtype=torch.float32):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)
    return model


def test_the_same_model_has_the_same_one():
    assert fingerprint(make_model()) == fingerprint(make_model())
    assert len(bytes.fromhex(fingerprint(make_model()))) == 32


def test_it_never_changes():
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
        model.bias.fill_(0.25)
    assert fingerprint(model) == "0c9198a5671ae99f7ee16f10a51468526870071ca5bf36199d734aa0971ac870"


def nudge(tensor):
    tensor.view(torch.int32).add_(1)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: nudge(model[0].weight.data),
        lambda model: nudge(model[1].bias.data[2:]),
        lambda model: setattr(model[0], "bias", None),
        lambda model: model.double(),
        lambda model: model.add_module("2", nn.BatchNorm1d(1)),
    ],
    ids=["one bit of a weight", "one bit of the last bias", "one parameter less", "another dtype", "one layer more"],
)
def test_one_bit_makes_another_one(change):
    model = make_model()
    before = [fingerprint(model, buffers=buffers) for buffers in (True, False)]
    change(model)
    after = [fingerprint(model, buffers=buffers) for buffers in (True, False)]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_buffers_count_only_if_wanted():
    model = make_model()
    before = [fingerprint(model, buffers=buffers) for buffers in (True, False)]
    model[1].num_batches_tracked += 1
    assert fingerprint(model, buffers=True) != before[0]
    assert fingerprint(model, buffers=False) == before[1]


def test_layout_in_memory_does_not_count():
    model, other = make_model(), make_model()
    for m in (model, other):
        m[0].weight.data = torch.arange(6.0).view(3, 2)
    other[0].weight.data = torch.arange(6.0).view(3, 2).t().contiguous().t()
    assert fingerprint(model) == fingerprint(other)


@given(st.lists(st.sampled_from([0.5, 0.25]), min_size=1, max_size=5))
def test_who_differs_is_named(in_threads, values):
    def work(fabric):
        try:
            agree(fingerprint(make_model(values[fabric.rank])), fabric, "after step 7")
        except DivergedError as error:
            return str(error)
        return None

    said = set(in_threads(len(values), work))
    assert len(said) == 1
    [message] = said
    if len(set(values)) == 1:
        assert message is None
        return
    often = max(values, key=values.count)
    if values.count(often) * 2 != len(values):
        others = [device for device, value in enumerate(values) if value != often]
        assert message.startswith(f"after step 7: devices {others} hold another model than the other")
    assert "after step 7" in message
