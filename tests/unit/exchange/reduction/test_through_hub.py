"""One owner of the whole vector: sums, residual, repeated steps, and what is lost with it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reducer_tools import PHASE, sent
from scadles.errors import ConfigError
from scadles.exchange.compression import ExactTopK, WireError, budget_bytes
from scadles.exchange.reduction import HubReducer, VectorOwner, reduce_together
from scadles.fabric import LocalFabric
from scadles.fabric.hub.collectives import FoldError
from scadles.fabric.local import LocalHubFabric

N = 40


class Held:
    """A device's end of an owner in the same process: the message stays here until all have one."""

    def __init__(self, rank, size):
        self.rank, self.size, self.present = rank, size, range(size)
        self.answer = None

    def fold(self, message, phase):
        return self.answer


def reducers_of(size, n=N, k=4, value_type="int8"):
    return [HubReducer(Held(rank, size), ExactTopK(k), n, value_type) for rank in range(size)]


def messages_of(reducers, updates, step, present, scalars=(1.0,)):
    rows = []
    for rank, (reducer, v) in enumerate(zip(reducers, updates, strict=True)):
        reducer.begin(v, step)
        message = reducer.message(None, list(scalars), step, PHASE)
        rows.append(bytearray(message.numpy().tobytes()) if rank in present else None)
    return rows


def take(reducers, updates, step, owner, present=None, scalars=(1.0,), *, counts=True):
    """One step of all who are present; return their reductions by rank, and the length of what came back."""
    present = range(len(reducers)) if present is None else present
    folded = owner.fold(messages_of(reducers, updates, step, present, scalars))
    answer = torch.frombuffer(bytearray(folded), dtype=torch.uint8)
    for reducer in reducers:
        reducer._fabric.answer, reducer._fabric.present = answer, present
    done = {rank: reducers[rank].reduce(updates[rank], list(scalars), step, PHASE) for rank in present}
    for rank in present if counts else ():
        reducers[rank].confirm(step)
    return done, len(folded)


NUMBERS = st.sampled_from([0.0, 0.0, 1.0, -2.5, 0.001, 300.0])


@settings(max_examples=25, deadline=None)
@given(data=st.data(), value_type=st.sampled_from(["float32", "int8"]))
def test_nothing_is_lost(data, value_type):
    """What all got, what the owner keeps and what devices keep make up the updates, also where steps are repeated."""
    size = data.draw(st.integers(1, 4))
    reducers, owner = reducers_of(size, value_type=value_type), VectorOwner()
    residuals = [torch.zeros(N) for _ in range(size)]
    arrived, given_away = torch.zeros(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
    for step in range(1, 5):
        updates = [torch.tensor(data.draw(st.lists(NUMBERS, min_size=N, max_size=N))) for _ in range(size)]
        vs = [residual + u for residual, u in zip(residuals, updates, strict=True)]
        seats = st.sets(st.integers(0, size - 1), min_size=1)
        if data.draw(st.booleans()):
            take(reducers, vs, step, owner, sorted({0, *data.draw(seats)}), counts=False)
        # somebody who was there before is there again, as where there is a source
        counts, present = data.draw(st.booleans()), sorted({0, *data.draw(seats)})
        done, _ = take(reducers, vs, step, owner, present, counts=counts)
        residuals = vs
        given_away += sum(u.double() for u in updates)
        kept = owner.residual().clone()
        if counts:
            kept = owner.open_residual().clone()
            residuals = [v - sent(done[rank]) if rank in present else v for rank, v in enumerate(vs)]
            arrived += done[present[0]].total
    left = sum(residual.double() for residual in residuals) + kept
    assert torch.allclose(arrived + left, given_away, rtol=0, atol=1e-3)


def test_all_get_the_same_and_the_reports_of_all_with_zeros_for_the_absent():
    reducers, owner = reducers_of(3, value_type="float32"), VectorOwner()
    updates = [torch.zeros(N).index_fill_(0, torch.tensor([rank]), rank + 1.0) for rank in range(3)]
    done, _ = take(reducers, updates, 1, owner, [0, 2], [5.0, 0.1])
    first, third = done[0], done[2]
    assert first.total.nonzero().flatten().tolist() == [0, 2]
    assert torch.equal(first.total, third.total)
    assert first.scalars.tolist() == third.scalars.tolist()
    assert first.scalars[:, 0].tolist() == [5, 0, 5]


def test_what_does_not_fit_comes_later():
    reducers, owner = reducers_of(3, k=1, value_type="float32"), VectorOwner()
    updates = [torch.zeros(N).index_fill_(0, torch.tensor([rank]), rank + 1.0) for rank in range(3)]
    nothing = [torch.zeros(N)] * 3
    came = [take(reducers, u, step, owner)[0][0].total.clone() for step, u in enumerate([updates, nothing, nothing], 1)]
    assert [total[total != 0].tolist() for total in came] == [[3.0], [2.0], [1.0]]
    assert not owner.open_residual().any()


def test_the_message_does_not_grow_with_devices_but_for_their_scalars():
    for size in (1, 4, 64):
        reducers = reducers_of(size, n=10_000, k=100)
        updates = [torch.randn(10_000) for _ in range(size)]
        _, length = take(reducers, updates, 1, VectorOwner())
        assert length == budget_bytes(10_000, 100, "int8", 2 + size)


def test_another_owner_is_noticed_and_its_residual_is_counted():
    reducers, owner = reducers_of(2, k=1, value_type="float32"), VectorOwner()
    updates = [torch.zeros(N).index_fill_(0, torch.tensor([rank]), rank + 3.0) for rank in range(2)]
    take(reducers, updates, 1, owner)
    take(reducers, updates, 2, VectorOwner())
    assert [reducer.lost for reducer in reducers] == [3.0, 3.0]
    assert reducers[0].notices == [
        "step 2: the hub has lost what it had kept back of gradients, of norm 3 (3 in all)",
    ]
    fresh = reducers_of(1)[0]
    fresh.load(reducers[0].state())
    assert torch.equal(fresh.state()["owner"], reducers[0].state()["owner"])


def test_a_step_back_lets_the_residual_go():
    reducers, owner = reducers_of(2, k=1, value_type="float32"), VectorOwner()
    updates = [torch.zeros(N).index_fill_(0, torch.tensor([rank]), rank + 3.0) for rank in range(2)]
    take(reducers, updates, 4, owner)
    take(reducers, [torch.zeros(N)] * 2, 5, owner, counts=False)
    for reducer in reducers:
        reducer.confirm(3)
    take(reducers, [torch.zeros(N)] * 2, 4, owner)
    assert not owner.open_residual().any()


@pytest.mark.parametrize("place", [0, 4, 25, -1])
def test_a_damaged_message_names_its_device(place):
    reducers, owner = reducers_of(3), VectorOwner()
    updates = [torch.randn(N) for _ in range(3)]
    rows = messages_of(reducers, updates, 1, range(3))
    rows[1][place] ^= 0xFF
    with pytest.raises(FoldError) as caught:
        owner.fold(rows)
    assert caught.value.seat == 1
    take(reducers, updates, 1, owner)


def test_devices_at_different_steps():
    reducers, owner = reducers_of(2), VectorOwner()
    rows = messages_of(reducers, [torch.randn(N)] * 2, 1, [0])
    rows[1] = messages_of(reducers, [torch.randn(N)] * 2, 2, [1])[1]
    with pytest.raises(FoldError, match="a message of step 2, others are at step 1"):
        owner.fold(rows)


def test_devices_say_alike_how_many_values_there_are(monkeypatch):
    """Also before there is a residual, and before memory is taken: most of them are believed, else the first."""
    taken, zeros = [], torch.zeros
    monkeypatch.setattr(
        "scadles.exchange.reduction.owner.torch.zeros", lambda *s, **o: taken.append(s) or zeros(*s, **o)
    )
    huge = 1_000_000
    for wrong, sizes in ((0, (huge, N, N)), (2, (N, N, huge)), (1, (huge, N))):
        rows = []
        for rank, n in enumerate(sizes):
            reducers = reducers_of(len(sizes), n)
            rows.append(messages_of(reducers, [torch.randn(n)] * len(sizes), 1, [rank])[rank])
        owner = VectorOwner()
        taken.clear()
        with pytest.raises(FoldError, match=f"a message about {sizes[wrong]} parameters, this model has") as caught:
            owner.fold(rows)
        assert (caught.value.seat, taken) == (wrong, [])


def test_a_message_that_could_not_hold_what_it_is_about_is_refused(monkeypatch):
    """Whoever is alone at first cannot make the owner take more memory than its messages' sizes warrant."""
    taken = []
    owner = VectorOwner(0.1)
    small, large = (messages_of(reducers_of(1, n), [torch.randn(n)], 1, [0]) for n in (N, 1_000_000))
    monkeypatch.setattr("scadles.exchange.reduction.owner.torch.zeros", lambda *s, **_: taken.append(s))
    with pytest.raises(FoldError, match=r"about 1000000 parameters has \d+ bytes, too few for the 0.1 of them that is"):
        owner.fold(large)
    assert not taken
    monkeypatch.undo()
    owner.fold(small)


def test_an_answer_of_another_step_is_refused():
    [reducer], owner = reducers_of(1), VectorOwner()
    take([reducer], [torch.randn(N)], 1, owner)
    with pytest.raises(WireError, match="the hub, gradients of step 5: a message of step 1, this is step 2"):
        reducer.reduce(torch.randn(N), [1.0], 2, PHASE)


def test_other_fabrics_are_refused():
    with pytest.raises(ConfigError, match="this fabric has no hub"):
        HubReducer(LocalFabric.create(1)[0], ExactTopK(1), N)


def updates_of(size, step):
    return [torch.randn(N, generator=torch.Generator().manual_seed(100 * step + rank)) for rank in range(size)]


def test_threads_and_one_process_come_to_the_same_bits(in_threads):
    def learn(fabric):
        reducer, totals = HubReducer(fabric, ExactTopK(4), N), []
        for step in (1, 2, 3):
            done = reducer.reduce(updates_of(3, step)[fabric.rank], [float(fabric.rank)], step, PHASE)
            reducer.confirm(step)
            totals.append(done.total.clone())
        return totals

    apart = in_threads(LocalHubFabric.around(VectorOwner().fold, 3), learn)
    reducers, owner = reducers_of(3), VectorOwner()
    for step in (1, 2, 3):
        scalars = [[float(rank)] for rank in range(3)]
        done = reduce_together(reducers, updates_of(3, step), scalars, step, PHASE, fold=owner.fold)
        for rank, reduction in enumerate(done):
            assert torch.equal(reduction.total, apart[rank][step - 1])
            assert reduction.scalars.tolist() == scalars
            reducers[rank].confirm(step)


def test_together_those_who_are_absent_pick_nothing_and_send_nothing():
    one, other = (reducers_of(3), VectorOwner()), (reducers_of(3), VectorOwner())
    expected, _ = take(*one[:1], updates_of(3, 1), 1, one[1], present=[0, 2])
    reducers, owner = other
    reducers[1].begin = reducers[1].message = None
    found = reduce_together(reducers, updates_of(3, 1), [[1.0]] * 3, 1, PHASE, [0, 2], owner.fold)
    for mine, theirs in zip(found, (expected[0], expected[2]), strict=True):
        assert torch.equal(mine.total, theirs.total)
        assert torch.equal(sent(mine), sent(theirs))
        assert mine.scalars.tolist() == [[1.0], [0.0], [1.0]]
