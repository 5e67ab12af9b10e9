import numpy as np
import torch

from scadles.records import Records, Rejected


def records(start, count, rejected=()):
    offsets = np.arange(start, start + count)
    x = torch.from_numpy(offsets).float()[:, None]
    return Records(offsets, offsets / 10.0, x, torch.from_numpy(offsets % 3), rejected)


def test_a_slice_is_a_view_without_what_was_rejected():
    whole = records(5, 6, (Rejected(7, "torn"),))
    part = whole[2:4]
    assert len(part) == 2
    assert part.offsets.tolist() == [7, 8]
    assert part.times.tolist() == [0.7, 0.8]
    assert part.y.tolist() == [1, 2]
    assert part.rejected == ()
    whole.x[2] = -1.0
    assert part.x[0].item() == -1.0


def test_parts_are_put_together_in_order():
    together = Records.concatenate([records(0, 2), records(4, 3), records(9, 1)])
    assert together.offsets.tolist() == [0, 1, 4, 5, 6, 9]
    assert together.x.flatten().tolist() == [0, 1, 4, 5, 6, 9]
    assert together.y.tolist() == [0, 1, 1, 2, 0, 0]
    assert len(together) == len(together.times) == 6


def test_one_part_is_not_copied():
    part = records(0, 3)
    assert Records.concatenate([part]) is part


def test_nothing_is_no_records():
    nothing = Records.concatenate([])
    assert len(nothing) == len(nothing.times) == len(nothing.x) == len(nothing.y) == 0
    assert nothing.offsets.dtype == np.int64
    assert nothing.y.dtype == torch.int64
