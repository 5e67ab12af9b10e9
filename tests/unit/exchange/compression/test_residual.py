"""Nothing of a gradient is lost, and nothing is applied twice."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.errors import CheckpointError, ConfigError
from scadles.exchange.compression import (
    ErrorFeedback,
    ExactTopK,
    MomentumCorrection,
    RandomK,
    decode,
    decode_dense,
    encode,
    encode_dense,
)

N = 700
STEP = st.tuples(
    st.sampled_from(["compressed", "dense", "dense, rounded", "nothing"]),
    st.sampled_from(["float32", "bfloat16", "float16", "int8"]),
    st.sampled_from([None, 90, 200]),
    st.floats(1e-3, 1e3),
)


def update(seed, scale=1.0):
    return scale * torch.randn(N, generator=torch.Generator().manual_seed(seed))


def one_step(feedback, gradient, kind, value_type, budget):
    """Do what a device does in a step, and return what the receivers add up."""
    total = feedback.add(gradient)
    if kind == "nothing":
        return torch.zeros(N)
    if kind == "compressed":
        encoded = encode(ExactTopK(60).pick(total), N, value_type=value_type, budget_bytes=budget)
        feedback.sent(*encoded.sent)
        return torch.zeros(N).index_copy_(0, *decode(encoded.message, N)[1])
    if kind == "dense":
        whole = total.clone()
        feedback.sent_all()
        return whole
    dense = encode_dense(total, value_type=value_type)
    feedback.sent_all(dense.sent)
    return decode_dense(dense.message, N)[1]


@given(st.lists(STEP, min_size=1, max_size=12))
def test_what_was_sent_and_the_residual_are_all_gradients(steps):
    feedback = ErrorFeedback(N)
    sent, given_ = torch.zeros(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
    size = 0.0
    for seed, (kind, value_type, budget, scale) in enumerate(steps):
        gradient = update(seed, scale)
        given_ += gradient.double()
        sent += one_step(feedback, gradient, kind, value_type, budget).double()
        size += float(gradient.abs().max())
        if kind == "dense":
            assert not feedback.state()["residual"].any()
    # two float32 roundings in a step, of numbers no larger than all gradients together
    tolerance = 2 * len(steps) * 2**-24 * size
    assert float((sent + feedback.state()["residual"].double() - given_).abs().max()) <= tolerance


@given(st.lists(STEP, min_size=1, max_size=12))
def test_with_momentum_they_are_all_velocities(steps):
    feedback = MomentumCorrection(ErrorFeedback(N), N, momentum=0.5)
    velocity, sent, size = torch.zeros(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64), 0.0
    velocities = torch.zeros(N, dtype=torch.float64)
    for seed, (kind, value_type, budget, scale) in enumerate(steps):
        gradient = update(seed, scale)
        velocity = 0.5 * velocity + gradient.double()
        velocities += velocity
        sent += one_step(feedback, gradient, kind, value_type, budget).double()
        size += 2 * float(gradient.abs().max())
    tolerance = 4 * len(steps) * 2**-24 * size
    assert float((sent + feedback.state()["residual"].double() - velocities).abs().max()) <= tolerance


def test_dense_steps_with_momentum_are_momentum_sgd():
    parameter = torch.nn.Parameter(torch.zeros(N))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    feedback, ours = MomentumCorrection(ErrorFeedback(N), N, momentum=0.9), torch.zeros(N)
    for seed in range(8):
        parameter.grad = update(seed)
        optimizer.step()
        ours -= 0.1 * one_step(feedback, update(seed), "dense", "float32", None)
    assert torch.allclose(ours, parameter.detach(), atol=1e-5)


def test_what_is_sent_keeps_its_momentum():
    feedback = MomentumCorrection(ErrorFeedback(3), 3, 0.5)
    feedback.add(torch.tensor([1.0, 4.0, 2.0]))
    feedback.sent(torch.tensor([1]), torch.tensor([4.0]))
    assert feedback.add(torch.zeros(3)).tolist() == [1.5, 2.0, 3.0]


def test_what_comes_from_others_to_be_kept_has_no_momentum_here():
    feedback = MomentumCorrection(ErrorFeedback(3), 3, 0.5)
    feedback.add(torch.tensor([1.0, 4.0, 2.0]))
    # the second entry left, the third is more by what another device gave
    feedback.sent(torch.tensor([1, 2]), torch.tensor([4.0, -6.0]))
    assert feedback.state()["residual"].tolist() == [1.0, 0.0, 8.0]
    assert feedback.state()["velocity"].tolist() == [1.0, 4.0, 2.0]


def test_error_feedback_lets_small_entries_out_in_the_end():
    feedback, sent = ErrorFeedback(N), torch.zeros(N)
    constant = torch.linspace(0.1, 1.0, N)
    for _ in range(400):
        sent += one_step(feedback, constant, "compressed", "int8", None)
    assert float((sent / 400 - constant).abs().max()) < 0.1


def test_random_entries_with_feedback_lose_nothing():
    feedback, selector = ErrorFeedback(N), RandomK(N // 4, seed=0)
    for seed in range(5):
        sparse = selector.pick(feedback.add(update(seed)), step=seed)
        feedback.sent(*encode(sparse, N, value_type="float32").sent)
        assert not feedback.state()["residual"][sparse.indices].any()


def test_a_state_goes_on_where_it_was():
    first = MomentumCorrection(ErrorFeedback(N), N)
    one_step(first, update(0), "compressed", "int8", None)
    saved = {name: memory.clone() for name, memory in first.state().items()}
    second = MomentumCorrection(ErrorFeedback(N), N)
    second.load(saved)
    assert torch.equal(first.add(update(1)), second.add(update(1)))


def test_what_is_kept_is_where_updates_are():
    """On a device that computes nothing, and would refuse to add what is on another one."""
    feedback = MomentumCorrection(ErrorFeedback(N, "meta"), N, device="meta")
    assert feedback.add(torch.zeros(N, device="meta")).device.type == "meta"
    assert {memory.device.type for memory in feedback.state().values()} == {"meta"}


def test_a_state_of_another_model_is_refused():
    with pytest.raises(CheckpointError, match="residual has 3 values, this model 5"):
        ErrorFeedback(5).load({"residual": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="has no velocity"):
        MomentumCorrection(ErrorFeedback(3), 3).load({"residual": torch.zeros(3)})


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_that_cannot_be_is_refused(momentum):
    with pytest.raises(ConfigError, match=r"momentum = .*: at least 0 and below 1"):
        MomentumCorrection(ErrorFeedback(3), 3, momentum)
