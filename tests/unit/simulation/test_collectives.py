import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.fabric.hub.frames import PIECE_BYTES, pieces
from scadles.simulation.collectives import COLLECTIVES, all_gather, ring, star, through_hub, tree

AROUND = ("ring", "tree", "all-gather")


def links(*rows):
    """Up, down and latency of each device, as columns."""
    return tuple(np.array(column, dtype=float) for column in zip(*rows, strict=True))


def transfer_s(nbytes, sender, receiver, up, down, latency):
    return max(latency[sender], latency[receiver]) + 8 * nbytes / min(up[sender], down[receiver])


def passing_on_s(rounds, nbytes, columns):
    """Send a chunk along a ring so many times; a device sends the next one when it has that and its link is free."""
    n = len(columns[0])
    ready = [0.0] * n
    for _ in range(rounds):
        hops = [transfer_s(nbytes, i, (i + 1) % n, *columns) for i in range(n)]
        sent = [ready[i] + hops[i] for i in range(n)]
        ready = [max(sent[i], sent[i - 1]) for i in range(n)]
    return max(ready)


def reduced_and_broadcast(n):
    """Follow a binomial tree: which devices' terms each one holds; return the rounds of (sender, receiver)."""
    held = [{i} for i in range(n)]
    rounds = []
    distance = 1
    while distance < n:
        rounds.append([(i, i - distance) for i in range(n) if i % (2 * distance) == distance])
        for sender, receiver in rounds[-1]:
            held[receiver] |= held[sender]
        distance *= 2
    assert held[0] == set(range(n))
    back = [[(receiver, sender) for sender, receiver in pairs] for pairs in reversed(rounds)]
    reached = {0}
    for pairs in back:
        assert all(sender in reached for sender, _ in pairs)
        reached |= {receiver for _, receiver in pairs}
    assert reached == set(range(n))
    return rounds + back


def through_a_server_s(nbytes, columns):
    """Send pieces up on every link, add each up when the last device has brought it, and send the sums down."""
    up, down, latency = columns
    lengths = [min(PIECE_BYTES, nbytes - begin) for begin in pieces(nbytes)]
    brought = [latency + 8 * end / up for end in np.cumsum(lengths)]
    free, arrived = np.zeros(len(up)), 0.0
    for length, at in zip(lengths, brought, strict=True):
        free = np.maximum(free, at.max()) + 8 * length / down
        arrived = (free + latency).max()
    return arrived


link = st.tuples(st.floats(1e3, 1e10), st.floats(1e3, 1e10), st.floats(0, 1))
clusters = st.lists(link, min_size=2, max_size=20).map(lambda rows: links(*rows))
sizes = st.integers(0, 10**10)


class TestByHand:
    four = links(*[(8e6, 8e6, 0.5)] * 4)

    def test_ring(self):
        # 6 rounds of 1 MB at 1 MB/s
        assert ring(4_000_000, *self.four) == (6 * 1.5, 24_000_000)

    def test_tree(self):
        # 2 rounds up and 2 down of 4 MB; 3 messages each way
        assert tree(4_000_000, *self.four) == (4 * 4.5, 24_000_000)

    def test_all_gather(self):
        # 3 rounds of 4 MB; everybody's message to 3 others
        assert all_gather(4_000_000, *self.four) == (3 * 4.5, 48_000_000)

    def test_star(self):
        # 1 MB up and 1 MB down at the same time on all links
        assert star(1_000_000, *self.four) == (2 * 1.5, 8_000_000)

    def test_a_star_passes_pieces_on(self):
        # the first of four pieces is up, then all goes down: nothing waits for the last one
        assert star(4 << 20, *links(*[(2**23, 2**23, 0.5)] * 4)) == (1.5 + 4.5, 32 << 20)
        # where the way up is slow, only the last piece is still to go down
        assert star(4 << 20, *links(*[(2**23, 2**26, 0.0)] * 4)) == (4 + 0.125, 32 << 20)

    def test_a_fold_waits_for_all_of_everybody(self):
        two = links((1e6, 8e6, 0.0), (8e6, 2e6, 0.5))
        assert through_hub(1_000_000, 2_000_000, *two) == (8 + 8.5, 6_000_000)

    def test_the_slower_end_of_each_hop_counts(self):
        # hops 0 -> 1 at 2, 1 -> 2 at 8, 2 -> 0 at 4 Mbit/s; latencies 0.1, 0.3, 0.3
        three = links((8e6, 4e6, 0.1), (16e6, 2e6, 0.0), (8e6, 8e6, 0.3))
        assert ring(3_000_000, *three) == pytest.approx((4 * max(0.1 + 4, 0.3 + 1, 0.3 + 2), 12_000_000))
        assert all_gather(3_000_000, *three) == pytest.approx((2 * (0.1 + 12), 18_000_000))

    def test_a_tree_of_three(self):
        # 1 -> 0 at 4 Mbit/s, 2 -> 0 at 4, 0 -> 2 at 8, 0 -> 1 at 2
        three = links((8e6, 4e6, 0.1), (16e6, 2e6, 0.0), (8e6, 8e6, 0.3))
        assert tree(1_000_000, *three) == pytest.approx(((0.1 + 2) + (0.3 + 2) + (0.3 + 1) + (0.1 + 4), 4_000_000))

    def test_a_star_waits_for_the_slowest_each_way(self):
        two = links((1e6, 8e6, 0.0), (8e6, 2e6, 0.5))
        assert star(1_000_000, *two) == pytest.approx((8 + 4.5, 4_000_000))

    def test_a_bandwidth_of_inf_takes_no_time(self):
        free = links(*[(math.inf, math.inf, 0.0)] * 5)
        late = links(*[(math.inf, math.inf, 0.25)] * 5)
        for name, rounds in {"ring": 8, "tree": 6, "all-gather": 4, "star": 2}.items():
            assert COLLECTIVES[name](10**9, *free).seconds == 0
            assert COLLECTIVES[name](10**9, *late).seconds == rounds * 0.25


class TestRoundByRound:
    @given(sizes, clusters)
    def test_ring_and_all_gather(self, nbytes, columns):
        n = len(columns[0])
        assert ring(nbytes, *columns).seconds == pytest.approx(passing_on_s(2 * (n - 1), nbytes / n, columns))
        assert all_gather(nbytes, *columns).seconds == pytest.approx(passing_on_s(n - 1, nbytes, columns))

    @given(st.one_of(st.integers(0, 20 * PIECE_BYTES), st.integers(0, 20).map(lambda n: n * PIECE_BYTES)), clusters)
    def test_star(self, nbytes, columns):
        assert star(nbytes, *columns).seconds == pytest.approx(through_a_server_s(nbytes, columns))

    @given(sizes, clusters)
    def test_tree(self, nbytes, columns):
        rounds = reduced_and_broadcast(len(columns[0]))
        seconds = sum(max(transfer_s(nbytes, *pair, *columns) for pair in pairs) for pairs in rounds)
        assert tree(nbytes, *columns).seconds == pytest.approx(seconds)
        assert tree(nbytes, *columns).bytes_sent == nbytes * sum(len(pairs) for pairs in rounds)
        assert len(rounds) == 2 * math.ceil(math.log2(len(columns[0])))


class TestProperties:
    @given(st.sampled_from(sorted(COLLECTIVES)), sizes, sizes, clusters)
    def test_more_bytes_never_cost_less(self, name, one, other, columns):
        fewer, more = (COLLECTIVES[name](nbytes, *columns) for nbytes in sorted((one, other)))
        assert fewer.seconds <= more.seconds
        assert fewer.bytes_sent <= more.bytes_sent

    @given(st.sampled_from(sorted(COLLECTIVES)), sizes, clusters, st.data())
    def test_a_worse_link_is_never_faster(self, name, nbytes, columns, data):
        device = data.draw(st.integers(0, len(columns[0]) - 1), label="device")
        column = data.draw(st.sampled_from([0, 1, 2]), label="column")
        factor = data.draw(st.floats(1, 100), label="factor")
        worse = [values.copy() for values in columns]
        worse[column][device] *= factor if column == 2 else 1 / factor
        better_s, worse_s = (COLLECTIVES[name](nbytes, *given).seconds for given in (columns, worse))
        assert better_s <= worse_s
        assert COLLECTIVES[name](nbytes, *columns).bytes_sent == COLLECTIVES[name](nbytes, *worse).bytes_sent

    @given(st.sampled_from(AROUND), sizes, link)
    def test_one_device_is_free(self, name, nbytes, alone):
        assert COLLECTIVES[name](nbytes, *links(alone)) == (0, 0)

    @given(sizes, clusters)
    def test_with_equal_links_a_ring_is_the_best_for_large_messages(self, nbytes, columns):
        same = links(*[(columns[0][0], columns[1][0], 0.0)] * len(columns[0]))
        assert ring(nbytes, *same).seconds <= tree(nbytes, *same).seconds * (1 + 1e-12)
