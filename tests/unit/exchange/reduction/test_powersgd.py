"""Factors of matrices, against float64 and against the account of every update."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reducer_tools import PHASE, assert_accounted, assert_nothing_lost, assert_same_in_one_process, learn
from scadles.errors import CheckpointError, RunError
from scadles.exchange.compression import WireError, dense_bytes, encode_dense
from scadles.exchange.reduction import SCALARS, PowerSgdReducer, powersgd_volume, reduce_together
from scadles.exchange.reduction.powersgd import Plan
from scadles.fabric import LocalFabric
from scadles.observe import RunFolder
from scadles.simulation import simulate

SHAPES = [(10,), (10, 24), (24,), (24, 3, 4, 4), (5, 2)]
N = 10 + 240 + 24 + 1152 + 10


def an_update(n, rank, step):
    shared = np.random.default_rng([step]).standard_normal(n)
    own = np.random.default_rng([step, rank]).standard_t(4, n)
    return torch.from_numpy((0.5 * shared + own).astype(np.float32))


def reducers_of(size, shapes=SHAPES, ratio=0.3, **options):
    return [PowerSgdReducer(fabric, shapes, ratio, **options) for fabric in LocalFabric.create(size)]


def together(reducers, updates, step=1):
    scalars = [[float(rank), 10.0] for rank in range(len(reducers))]
    return reduce_together(reducers, updates, scalars, step, PHASE)


class TestPlan:
    @given(st.floats(0.001, 1.0), st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1))
    def test_the_rank_is_the_largest_that_the_ratio_allows(self, ratio, shapes):
        plan = Plan.of(shapes, ratio)
        sizes = [int(np.prod(shape)) for shape in shapes]

        def floats(rank):
            matrices = [(shape[0], size // shape[0]) for shape, size in zip(shapes, sizes, strict=True)]
            return sum(
                min(rank * (rows + columns), size) if len(shape) > 1 else size
                for shape, size, (rows, columns) in zip(shapes, sizes, matrices, strict=True)
            )

        assert plan.n == sum(sizes)
        assert plan.left_factor_floats + plan.message_floats == floats(plan.rank)
        assert plan.rank == 1 or floats(plan.rank) <= ratio * plan.n
        assert floats(plan.rank + 1) > ratio * plan.n or floats(plan.rank + 1) == plan.n
        places = [range(m.start, m.start + m.rows * m.columns) for m in plan.matrices]
        places += [range(part.start, part.stop) for part in plan.whole]
        assert sorted(place for span in places for place in span) == list(range(plan.n))

    def test_with_all_floats_nothing_is_factored(self):
        assert Plan.of(SHAPES, 1.0).matrices == ()
        reducer = reducers_of(1, ratio=1.0, value_type="float32")[0]
        update = an_update(N, 0, 1)
        [reduction] = together([reducer], [update])
        assert torch.equal(reduction.total, update)
        assert reducer.volume(2) == powersgd_volume(0, N, 1, "float32", 2)


def test_a_matrix_of_that_rank_arrives_as_it_is():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(40, 3, generator=generator), torch.randn(3, 30, generator=generator)
    shares = [left @ torch.diag(weights) @ right for weights in torch.eye(3) + 0.5]
    reducers = reducers_of(3, [(40, 30)], ratio=3 * 70 / 1200, value_type="float32")
    assert reducers[0].plan.rank == 3
    reductions = together(reducers, [share.flatten() for share in shares])
    torch.testing.assert_close(reductions[0].total.view(40, 30), sum(shares), rtol=1e-4, atol=1e-4)
    for share, reduction in zip(shares, reductions, strict=True):
        torch.testing.assert_close(reduction.taken.values.view(40, 30), share, rtol=1e-4, atol=1e-4)


def test_steps_are_those_of_a_plain_power_iteration():
    """In float64, from the same first factor, with nothing but products and one orthogonalisation a step."""
    reducers = reducers_of(3, [(40, 30)], ratio=0.2, value_type="float32", seed=7)
    rank = reducers[0].plan.rank
    right = reducers[0].state()["start"].view(rank, 30).double().numpy().T
    for step in range(5):
        updates = [an_update(1200, device, step) for device in range(3)]
        reductions = together(reducers, updates, step)
        mean = sum(update.view(40, 30).double().numpy() for update in updates)
        left, _ = np.linalg.qr(mean @ right)
        right = mean.T @ left
        np.testing.assert_allclose(reductions[0].total.view(40, 30).numpy(), left @ right.T, rtol=0, atol=2e-4)
        for update, reduction in zip(updates, reductions, strict=True):
            sent = left @ left.T @ update.view(40, 30).double().numpy()
            np.testing.assert_allclose(reduction.taken.values.view(40, 30).numpy(), sent, rtol=0, atol=2e-4)
            assert reduction.kept_sq == pytest.approx((sent**2).sum(), rel=1e-4)


def test_factors_of_the_step_before_find_the_largest_directions():
    """Of one matrix that stays the same, as warm starts are for."""
    generator = np.random.default_rng(0)
    left, _ = np.linalg.qr(generator.standard_normal((40, 30)))
    right, _ = np.linalg.qr(generator.standard_normal((30, 30)))
    matrix = torch.from_numpy(((left * 0.7 ** np.arange(30)) @ right.T).astype(np.float32))
    [reducer] = reducers_of(1, [(40, 30)], ratio=0.2, value_type="float32")
    best = float(torch.linalg.svdvals(matrix)[: reducer.plan.rank].square().sum())
    shares = [together([reducer], [matrix.flatten()], step)[0].kept_sq / best for step in range(15)]
    assert shares[0] < 0.99
    assert shares[-1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("value_type", ["float32", "bfloat16", "float16", "int8"])
def test_totals_and_residuals_make_up_the_updates(in_threads, value_type):
    def work(fabric):
        return learn(fabric, PowerSgdReducer(fabric, SHAPES, 0.3, value_type), 10, an_update)

    arrived, given_away = assert_accounted(in_threads(4, work))
    assert arrived.norm() > 0.3 * given_away.norm()


@settings(max_examples=25)
@given(st.data())
def test_no_shape_of_updates_loses_anything(data):
    size, shape = data.draw(st.integers(1, 4)), data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    value_type = data.draw(st.sampled_from(["float32", "int8"]))
    reducers = reducers_of(size, [(3,), shape], ratio=data.draw(st.floats(0.05, 1.0)), value_type=value_type)
    assert_nothing_lost(data, reducers, atol=2e-3)


def test_threads_and_one_process_agree_to_the_bit(in_threads):
    assert_same_in_one_process(in_threads, lambda f: PowerSgdReducer(f, SHAPES, 0.3), 3, 5, an_update)


def test_what_a_checkpoint_holds_makes_the_next_steps_the_same():
    def updates(step):
        return [an_update(N, rank, step) for rank in range(2)]

    whole = reducers_of(2)
    expected = [together(whole, updates(step), step)[0].total.clone() for step in range(6)]
    first = reducers_of(2)
    for step in range(3):
        together(first, updates(step), step)
    states = [reducer.state() for reducer in first]
    second = reducers_of(2, seed=9)
    for reducer, state in zip(second, states, strict=True):
        reducer.load(state)
    for step in range(3, 6):
        assert torch.equal(together(second, updates(step), step)[0].total, expected[step])
    with pytest.raises(CheckpointError, match="no factors: it was written without compression by powersgd"):
        second[0].load({})
    with pytest.raises(CheckpointError, match="another model or rank"):
        second[0].load({"start": states[0]["start"][1:]})
    with pytest.raises(CheckpointError, match="not finite"):
        second[0].load({"start": torch.full_like(states[0]["start"], torch.nan)})


def test_a_step_of_zeros_leaves_factors_to_go_on_with():
    reducers = reducers_of(2)
    for step in range(2):
        assert not together(reducers, [torch.zeros(N)] * 2, step)[0].total.any()
    [one, other] = [reducer.state()["start"] for reducer in reducers]
    assert torch.equal(one, other)
    for factor in reducers[0]._factors(one, reducers[0]._right_sizes):
        torch.testing.assert_close(factor @ factor.T, torch.eye(len(factor)), rtol=0, atol=1e-5)
    assert together(reducers, [an_update(N, rank, 2) for rank in range(2)], 2)[0].total.any()


@pytest.mark.parametrize("place", [0, 100, N - 1])
def test_what_is_not_finite_is_refused_before_it_is_sent(place):
    update = an_update(N, 0, 0)
    update[place] = torch.nan
    with pytest.raises(RunError, match="NaN or infinity cannot be compressed"):
        together(reducers_of(2), [update, an_update(N, 1, 0)])


class TestForeignMessages:
    def outgoing(self, reducers, step=1):
        rows = [reducer.begin(an_update(N, rank, 0), step)[0] for rank, reducer in enumerate(reducers)]
        return torch.stack(rows)

    def test_a_message_of_another_step(self):
        reducers = reducers_of(2)
        outgoing = self.outgoing(reducers, step=2)
        with pytest.raises(WireError, match=f"device 0, {PHASE}: a message of step 2, this is step 1"):
            reducers[1].message(outgoing, [], 1, PHASE)

    def test_an_altered_message(self):
        reducers = reducers_of(2)
        outgoing = self.outgoing(reducers)
        outgoing[1, -1] ^= 1
        with pytest.raises(WireError, match=f"device 1, {PHASE}: "):
            reducers[0].message(outgoing, [], 1, PHASE)

    @pytest.mark.parametrize(
        ("length", "step", "scalars", "said"),
        [
            (0, 2, 1, "a message of step 2, this is step 1"),
            (0, 1, 2, "a message with 2 scalars, not 1"),
            (1, 1, 1, "a message about 261 parameters, this model has 260"),
        ],
    )
    def test_a_message_about_something_else(self, length, step, scalars, said):
        reducer, floats = reducers_of(2)[0], reducers_of(2)[0].plan.message_floats
        good = encode_dense(torch.zeros(floats), value_type="int8", step=1, scalars=[0.0]).message
        bad = encode_dense(torch.zeros(floats + length), value_type="int8", step=step, scalars=[0.0] * scalars).message
        with pytest.raises(WireError, match=rf"device 1, {PHASE}: .*{said}"):
            reducer.add_up([good, bad], range(2), 1, PHASE)


def test_the_volume_is_what_is_made():
    reducers = reducers_of(3)
    outgoing = [reducer.begin(an_update(N, rank, 0), 1) for rank, reducer in enumerate(reducers)]
    message = reducers[0].message(torch.stack([rows[0] for rows in outgoing]), [1.0] * 9, 1, PHASE)
    volume = reducers[0].volume(9)
    assert (volume.first_message_bytes, volume.message_bytes) == (outgoing[0].shape[1], len(message))
    assert (volume.messages, volume.bytes_sent, volume.rounds) == (4, 2 * (outgoing[0].shape[1] + len(message)), 2)
    assert powersgd_volume(10, 20, 1).bytes_sent == powersgd_volume(10, 20, 1).rounds == 0
    assert powersgd_volume(0, 20, 3).rounds == 1


RUN = {
    "devices": 4,
    "model": "mlp",
    "steps": 60,
    "stream": {"rates": 64},
    "compression": {"ratio": 0.2, "method": "powersgd", "gate": "always"},
}


def test_a_simulated_cluster_learns_by_it(tmp_path):
    simulate(RUN, out=tmp_path / "run", quiet=True)
    summary = RunFolder(tmp_path / "run").summary
    assert summary.final_accuracy > 0.8
    assert summary.collectives_per_step == 2
    assert (summary.compressed.reduction, summary.compressed.kept_energy) == ("powersgd", None)
    # 64 x 64 and 10 x 64 with rank 4, and 74 biases
    assert summary.compressed.reduction_why == "rank 4: 882 floats for 4810"
    assert summary.bytes_sent == 60 * 4 * powersgd_volume(4 * 74, 4 * 128 + 74, 4, "int8", SCALARS).gloo_bytes


def test_another_model_is_charged_the_same_share(tmp_path):
    simulate({**RUN, "steps": 1, "cost": {"message_bytes": 40 * 4810}}, out=tmp_path / "run", quiet=True)
    volume = powersgd_volume(40 * 74, 10 * (4 * 128 + 74), 4, "int8", SCALARS)
    assert RunFolder(tmp_path / "run").summary.bytes_sent == 4 * volume.gloo_bytes


def test_sizes_are_those_of_dense_messages():
    assert powersgd_volume(10, 20, 2, "float16", 3).bytes_sent == dense_bytes(10, "float16", 0) + dense_bytes(
        20, "float16", 3
    )
