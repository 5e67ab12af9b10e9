"""Both ways on devices that are threads, against float64 and against each other."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reducer_tools import PHASE, assert_accounted, assert_nothing_lost, assert_same_in_one_process, learn, sent
from scadles.errors import CheckpointError, ConfigError, PeerLostError, RunError
from scadles.exchange.compression import ExactTopK, WireError
from scadles.exchange.reduction import GatherReducer, SplitReducer, reduce_together
from scadles.fabric import LocalFabric

REDUCERS = [GatherReducer, SplitReducer]
PLACES = [(GatherReducer, "gather"), (SplitReducer, "swap"), (SplitReducer, "gather")]
VALUE_TYPES = ["float32", "bfloat16", "float16", "int8"]


def an_update(n, rank, step, common=0.5):
    shared = np.random.default_rng([step]).standard_normal(n)
    own = np.random.default_rng([step, rank]).standard_t(4, n)
    slope = np.linspace(0.2, 3.0, n)  # entries are denser towards the end
    return torch.from_numpy(((common * shared + own) * slope).astype(np.float32))


@pytest.mark.parametrize("value_type", VALUE_TYPES)
@pytest.mark.parametrize("kind", REDUCERS)
def test_totals_and_residuals_make_up_the_updates(in_threads, kind, value_type):
    n, k, steps = 3000, 90, 12

    def work(fabric):
        return learn(fabric, kind(fabric, ExactTopK(k), n, value_type), steps, an_update)

    outcomes = in_threads(5, work)
    assert_accounted(outcomes)
    assert all(int((total != 0).sum()) > k / 2 for total in outcomes[0][0])


@pytest.mark.parametrize("kind", REDUCERS)
def test_every_device_gets_the_same_bits(in_threads, kind):
    n = 3000
    outcomes = in_threads(4, lambda fabric: learn(fabric, kind(fabric, ExactTopK(50), n), 6, an_update))
    first_totals, _, _, first = outcomes[0]
    for totals, _, _, reductions in outcomes:
        for mine, theirs, total, first_total in zip(reductions, first, totals, first_totals, strict=True):
            assert torch.equal(total.view(torch.int32), first_total.view(torch.int32))
            assert mine.scalars.tolist() == theirs.scalars.tolist()
    assert first[3].scalars.tolist() == [[rank, 30.0] for rank in range(4)]


@settings(max_examples=25)
@given(st.data())
def test_no_shape_of_updates_loses_anything(data):
    size, n, k = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 60)), data.draw(st.integers(1, 70))
    kind, value_type = data.draw(st.sampled_from(REDUCERS)), data.draw(st.sampled_from(VALUE_TYPES))
    reducers = [kind(fabric, ExactTopK(k), n, value_type) for fabric in LocalFabric.create(size)]
    assert_nothing_lost(data, reducers, atol=1e-3)


@pytest.mark.parametrize("kind", REDUCERS)
def test_with_all_entries_it_is_the_dense_sum(in_threads, kind):
    n, size = 1001, 4

    def work(fabric):
        return learn(fabric, kind(fabric, ExactTopK(n), n, "float32"), 3, an_update)

    for totals, _, residual, _ in in_threads(size, work):
        for step, total in enumerate(totals):
            expected = an_update(n, 0, step)
            for rank in range(1, size):
                expected = expected + an_update(n, rank, step)
            assert torch.equal(total, expected)
        assert not residual.any()


@pytest.mark.parametrize("kind", REDUCERS)
def test_threads_and_one_process_agree_to_the_bit(in_threads, kind):
    assert_same_in_one_process(in_threads, lambda f: kind(f, ExactTopK(40), 2000), 4, 4, an_update)


@pytest.mark.parametrize("kind", REDUCERS)
def test_devices_with_nothing_take_part(in_threads, kind):
    n = 500

    def update(n, rank, step):
        return an_update(n, rank, step) if rank == 2 and step != 1 else torch.zeros(n)

    for totals, _, residual, reductions in in_threads(4, lambda f: learn(f, kind(f, ExactTopK(20), n), 3, update)):
        assert totals[0].any()
        assert totals[2].any()
        assert torch.isfinite(residual).all()
        assert reductions[1].scalars.tolist() == [[rank, 10.0] for rank in range(4)]

    def nobody(n, rank, step):
        return torch.zeros(n)

    for totals, _, residual, reductions in in_threads(3, lambda f: learn(f, kind(f, ExactTopK(20), n), 2, nobody)):
        assert not any(total.any() for total in totals)
        assert not residual.any()
        assert reductions[0].kept_sq == 0.0


@pytest.mark.parametrize("kind", REDUCERS)
def test_one_device_alone_sends_its_largest(in_threads, kind):
    outcomes = in_threads(1, lambda f: learn(f, kind(f, ExactTopK(3), 40, "float32"), 1, an_update))
    [(totals, _, residual, reductions)] = outcomes
    v = an_update(40, 0, 0)
    expected = torch.zeros(40).index_copy_(0, *ExactTopK(3).pick(v))
    assert torch.equal(totals[0], expected)
    assert torch.equal(residual, v - expected)
    assert reductions[0].kept_sq == pytest.approx(float(expected.square().sum()))


def altered(messages, place):
    """Flip a bit of what came from device 1."""
    messages = messages.clone()
    messages[1, place] ^= 16
    return messages


class Altering(LocalFabric):
    """Flips a bit of what comes from device 1, in one collective."""

    where = ""

    def gather(self, values, phase):
        messages = super().gather(values, phase)
        return altered(messages, 20) if self.where == "gather" else messages

    def swap(self, outgoing, phase):
        arrived = super().swap(outgoing, phase)
        return altered(arrived, 20) if self.where == "swap" else arrived


@pytest.mark.parametrize("place", [0, 4, 5, 9, 25, -1])
@pytest.mark.parametrize(("kind", "where"), PLACES)
def test_an_altered_message_is_an_error_that_names_its_device(kind, where, place):
    reducers = [kind(fabric, ExactTopK(30), 1000) for fabric in LocalFabric.create(3)]
    outgoing = [reducer.begin(an_update(1000, rank, 0), 5) for rank, reducer in enumerate(reducers)]
    arrived = [None if kind is GatherReducer else torch.stack([rows[rank] for rows in outgoing]) for rank in range(3)]
    if where == "swap":
        with pytest.raises(WireError, match=f"^device 1, {PHASE}: "):
            reducers[0].message(altered(arrived[0], place), [], 5, PHASE)
        return
    messages = torch.stack([reducer.message(arrived[rank], [], 5, PHASE) for rank, reducer in enumerate(reducers)])
    with pytest.raises(WireError, match=f"^device 1, {PHASE}: "):
        reducers[0].add_up(altered(messages, place), range(len(messages)), 5, PHASE)
    reducers[0].add_up(messages, range(len(messages)), 5, PHASE)


@pytest.mark.parametrize(("kind", "where"), PLACES)
def test_an_altered_message_ends_the_step_on_every_device(kind, where):
    fabrics = Altering.create(3, deadline_s=30.0)
    fabrics[2].where = where

    def work(fabric):
        try:
            kind(fabric, ExactTopK(30), 1000).reduce(an_update(1000, fabric.rank, 0), [1.0], 5, PHASE)
            fabric.gather(torch.zeros(1), "the next step")
        except (WireError, PeerLostError) as error:
            return error
        finally:
            fabric.close()

    with ThreadPoolExecutor(3) as pool:
        first, second, third = pool.map(work, fabrics)
    assert isinstance(third, WireError)
    assert str(third).startswith(f"device 1, {PHASE}: ")
    assert isinstance(first, PeerLostError)
    assert isinstance(second, PeerLostError)
    assert 2 in first.devices or 2 in second.devices


@pytest.mark.parametrize("kind", REDUCERS)
def test_a_device_at_another_step_is_named(kind):
    reducers = [kind(fabric, ExactTopK(5), 100) for fabric in LocalFabric.create(3)]
    steps = [7, 7, 8]
    outgoing = [reducer.begin(an_update(100, rank, 0), steps[rank]) for rank, reducer in enumerate(reducers)]
    if kind is SplitReducer:
        with pytest.raises(WireError, match=f"device 2, {PHASE}: a message does not match its checksum"):
            reducers[0].message(torch.stack([rows[0] for rows in outgoing]), [], 7, PHASE)
        return
    messages = [reducer.message(None, [], steps[rank], PHASE) for rank, reducer in enumerate(reducers)]
    with pytest.raises(WireError, match=f"device 2, {PHASE}: a message of step 8, this is step 7"):
        reducers[0].add_up(torch.stack(messages), range(len(messages)), 7, PHASE)


def test_messages_have_the_size_that_the_volume_says(in_threads):
    class Counting(LocalFabric):
        sent = 0

        def gather(self, values, phase):
            self.sent += (self.size - 1) * values.nbytes
            return super().gather(values, phase)

        def swap(self, outgoing, phase):
            self.sent += outgoing.nbytes - outgoing.nbytes // self.size
            return super().swap(outgoing, phase)

    def work(fabric):
        n, counts = 4000, []
        for kind in REDUCERS:
            before = fabric.sent
            reducer = kind(fabric, ExactTopK(60), n)
            reducer.reduce(an_update(n, fabric.rank, 0), [1.0, 2.0, 3.0], 0, PHASE)
            counts.append((fabric.sent - before, reducer.volume(3).bytes_sent))
        return counts

    for counts in in_threads(Counting.create(5, deadline_s=30.0), work):
        assert all(sent == told for sent, told in counts)


def test_slices_follow_what_devices_want_to_send():
    n, size, k = 20_000, 8, 400

    def bumpy(rank, step):
        u = an_update(n, rank, step)
        u[: n // 10] *= 100.0  # nearly all of the largest entries lie in the first slice
        return u

    reducers = [SplitReducer(fabric, ExactTopK(k), n) for fabric in LocalFabric.create(size)]
    entries = []
    for step in range(4):
        reductions = reduce_together(reducers, [bumpy(rank, step) for rank in range(size)], [[]] * size, step, PHASE)
        entries.append(int((reductions[0].total != 0).sum()))
    assert entries[0] < 0.3 * k
    assert entries[-1] > 0.9 * k
    bounds = {tuple(reducer.state()["bounds"].tolist()) for reducer in reducers}
    assert len(bounds) == 1


def test_what_comes_back_to_the_owner_stays_with_it():
    n = 8
    reducers = [SplitReducer(fabric, ExactTopK(2), n, "float32") for fabric in LocalFabric.create(2)]
    first = torch.tensor([0.0, 4.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    second = torch.tensor([0.0, 4.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0])
    one, other = reduce_together(reducers, [first, second], [[], []], 0, PHASE)
    # the first device owns entries 0 to 3, of which one may be sent on
    left = first - sent(one) + second - sent(other)
    assert one.total.tolist() == other.total.tolist() == [0.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert left.tolist() == [0.0, 0.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0]


def test_a_run_goes_on_from_its_state():
    n, size = 3000, 4

    def fresh():
        return [SplitReducer(fabric, ExactTopK(100), n) for fabric in LocalFabric.create(size)]

    def step_of(reducers, step):
        vs = [an_update(n, rank, step) for rank in range(size)]
        return reduce_together(reducers, vs, [[]] * size, step, PHASE)[0].total.clone()

    reducers = fresh()
    for step in range(3):
        step_of(reducers, step)
    states = [reducer.state() for reducer in reducers]
    expected = step_of(reducers, 3)
    resumed = fresh()
    for reducer, state in zip(resumed, states, strict=True):
        reducer.load(state)
    assert torch.equal(step_of(resumed, 3), expected)
    assert not torch.equal(step_of(fresh(), 3), expected)


@pytest.mark.parametrize("bounds", [[0, 50, 100], [0, 20, 10, 50, 100], [0, 1, 2, 3, 99], [5, 10, 20, 30, 100]])
def test_a_foreign_state_is_refused(bounds):
    reducer = SplitReducer(LocalFabric.create(4)[0], ExactTopK(10), 100)
    with pytest.raises(CheckpointError, match="slices of another run"):
        reducer.load({"bounds": torch.tensor(bounds)})


def test_a_state_of_the_other_way_is_an_even_start():
    gathering, splitting = (kind(LocalFabric.create(1)[0], ExactTopK(10), 100) for kind in REDUCERS)
    splitting.load(gathering.state())
    gathering.load(splitting.state())
    assert splitting.state()["bounds"].tolist() == [0, 100]


@pytest.mark.parametrize("kind", REDUCERS)
def test_what_cannot_work_is_refused(kind):
    alone = LocalFabric.create(1)[0]
    with pytest.raises(ConfigError, match="value_type = 'int9'"):
        kind(alone, ExactTopK(3), 10, "int9")
    with pytest.raises(ConfigError, match="at most 2147483647"):
        kind(alone, ExactTopK(3), 2**31)
    with pytest.raises(ConfigError, match="v has 11 values"):
        kind(alone, ExactTopK(3), 10).reduce(torch.zeros(11), [], 0, PHASE)
    with pytest.raises(RunError, match="NaN or infinity"):
        kind(alone, ExactTopK(3), 3).reduce(torch.tensor([1.0, float("nan"), 2.0]), [], 0, PHASE)


@pytest.mark.parametrize("kind", REDUCERS)
def test_scalars_are_rounded_as_in_a_dense_message(kind):
    reducer = kind(LocalFabric.create(1)[0], ExactTopK(3), 10)
    scalars = [0.1, 1e300, float("nan")]
    [row] = reducer.reduce(torch.ones(10), scalars, 0, PHASE).scalars.tolist()
    assert row[0] == float(np.float32(0.1))
    assert row[1] == float("inf")
    assert np.isnan(row[2])
