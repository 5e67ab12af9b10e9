"""A run in processes whose certificates renew themselves every few seconds."""

import re
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks/hub_renewal.py"


@pytest.mark.timeout(300)
def test_no_step_is_lost_to_a_renewal(start, tmp_path):
    """Seconds of what the benchmark does for minutes; connections that are cut come back with newer certificates."""
    options = ("--minutes", "0.4", "--every", "6", "--cut", "7", "--devices", "2")
    run = start(tmp_path, str(BENCHMARK), *options, PYTHONPATH=":".join([str(BENCHMARK.parent), *sys.path]))
    assert run.wait() == 0, run.out + run.err
    renewals = [int(count) for count in re.findall(r"cam-\d (\d+)", run.out)]
    assert len(renewals) == 2
    assert min(renewals) >= 2
    assert int(re.search(r"(\d+) of them with a renewed certificate", run.out)[1]) >= 3
    assert int(re.search(r"cut off on purpose +(\d+)", run.out)[1]) >= 1
    assert re.search(r"lost to a renewal +0, 0 refused\n", run.out)
    assert re.search(r"steps +\d+, 0 missing, 0 taken twice\n", run.out)
