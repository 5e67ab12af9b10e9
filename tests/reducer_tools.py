"""What tests of reducers share: steps with error feedback, and the account of every update."""

import torch
from hypothesis import strategies as st

from scadles.exchange.reduction import reduce_together
from scadles.fabric import LocalFabric

PHASE = "gradients of step 5"
_NUMBERS = st.sampled_from([0.0, 0.0, 1.0, -2.5, 0.001, 300.0])


def sent(reduction):
    """What a device subtracts from its update, as a vector."""
    return torch.zeros(len(reduction.total)).index_copy_(0, *reduction.taken)


def learn(fabric, reducer, steps, update):
    """Do some steps with error feedback; return totals, all updates of this device, and what is left of them.

    ``update(n, rank, step)`` is a device's update.
    """
    residual, updates = torch.zeros(reducer.n), torch.zeros(reducer.n, dtype=torch.float64)
    totals, reductions = [], []
    for step in range(steps):
        u = update(reducer.n, fabric.rank, step)
        updates += u
        v = residual + u
        reduction = reducer.reduce(v, [fabric.rank, 10.0 * step], step, PHASE)
        residual = v - sent(reduction)
        totals.append(reduction.total.clone())
        reductions.append(reduction)
    return totals, updates, residual, reductions


def assert_accounted(outcomes):
    """Totals and residuals that :func:`learn` returned on all devices make up the updates; returns the two sums."""
    given_away = sum(updates for _, updates, _, _ in outcomes)
    arrived = sum(total.double() for total in outcomes[0][0])
    left = sum(residual.double() for _, _, residual, _ in outcomes)
    assert (arrived + left - given_away).abs().max() < 1e-5 * given_away.abs().max()
    return arrived, given_away


def assert_nothing_lost(data, reducers, atol):
    """Totals and residuals make up the updates, of which ``data`` draws three steps."""
    n, size = reducers[0].n, len(reducers)
    residuals = [torch.zeros(n) for _ in range(size)]
    arrived, given_away = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for step in range(3):
        updates = [torch.tensor(data.draw(st.lists(_NUMBERS, min_size=n, max_size=n))) for _ in range(size)]
        given_away += sum(u.double() for u in updates)
        vs = [u + residual for u, residual in zip(updates, residuals, strict=True)]
        reductions = reduce_together(reducers, vs, [[]] * size, step, PHASE)
        residuals = [v - sent(reduction) for v, reduction in zip(vs, reductions, strict=True)]
        arrived += reductions[0].total
        for reduction in reductions:
            assert (reduction.taken.indices.diff() > 0).all()
    assert torch.allclose(arrived + sum(r.double() for r in residuals), given_away, rtol=0, atol=atol)


def assert_same_in_one_process(in_threads, make, size, steps, update):
    """Threads and one process come to the same bits; ``make(fabric)`` is a reducer."""
    outcomes = in_threads(size, lambda fabric: learn(fabric, make(fabric), steps, update))
    reducers = [make(fabric) for fabric in LocalFabric.create(size)]
    residuals = [torch.zeros(reducers[0].n)] * size
    for step in range(steps):
        vs = [residual + update(reducers[0].n, rank, step) for rank, residual in enumerate(residuals)]
        scalars = [[rank, 10.0 * step] for rank in range(size)]
        together = reduce_together(reducers, vs, scalars, step, PHASE)
        residuals = [v - sent(reduction) for v, reduction in zip(vs, together, strict=True)]
        for reduction, (totals, _, _, reductions) in zip(together, outcomes, strict=True):
            assert torch.equal(reduction.total.view(torch.int32), totals[step].view(torch.int32))
            assert reduction.kept_sq == reductions[step].kept_sq
            assert reduction.scalars.tolist() == scalars
    for residual, (_, _, theirs, _) in zip(residuals, outcomes, strict=True):
        assert torch.equal(residual, theirs)
