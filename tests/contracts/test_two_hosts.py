"""Two hosts whose own names are 127.0.1.1, as Debian and Raspberry Pi OS have it: network namespaces with a cable."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scadles.fabric import TorchFabric

SCRIPT = """
set -eu
ip link set lo up
mount -t tmpfs none /run
mkdir -p /run/netns
for host in a b; do ip netns add $host; ip -n $host link set lo up; done
ip link add va netns a type veth peer name vb netns b
ip -n a addr add 10.7.0.1/24 dev va; ip -n b addr add 10.7.0.2/24 dev vb
ip -n a link set va up; ip -n b link set vb up
go() {
  printf "127.0.0.1 localhost\n127.0.1.1 pi-$1\n" > "$DIR/hosts-$1"
  RANK=$2 ip netns exec "$1" unshare -m -u sh -c \
    "mount --bind '$DIR/hosts-$1' /etc/hosts; hostname pi-$1; exec '$PYTHON' '$FILE'" > "$DIR/said-$1" 2>&1
}
go a 0 & first=$!
go b 1 & second=$!
code=0; wait $first || code=$?; wait $second || code=$?
exit $code
"""


def join():
    here = Path(os.environ["DIR"])
    (here / f"ready-{os.environ['RANK']}").touch()
    while len(list(here.glob("ready-*"))) < 2:  # importing takes its time, and no deadline is for that
        time.sleep(0.01)
    fabric = TorchFabric("gloo", float(os.environ["DEADLINE_S"]), torch.device("cpu"), sleep=lambda seconds: None)
    total = torch.ones(3)
    fabric.reduce(total, "a test").wait()
    print("sum", total.tolist(), "on", os.environ["GLOO_SOCKET_IFNAME"])
    fabric.close()


def on_two_hosts(folder, deadline_s, **environment):
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("network namespaces need root, and iproute2 and util-linux: apt-get install iproute2")
    ours = {"DIR": str(folder), "PYTHON": sys.executable, "FILE": __file__, "DEADLINE_S": str(deadline_s)}
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "10.7.0.1", "MASTER_PORT": "29511"}
    kept = {name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"}
    surroundings = {**kept, **ours, **group, "RES_OPTIONS": "timeout:1 attempts:1", **environment}
    command = ["unshare", "-n", "-m", "bash", "-c", SCRIPT]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=200, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    return done, [(folder / f"said-{host}").read_text() for host in "ab"]


def test_devices_connect_on_the_network_that_leads_to_the_master(tmp_path):
    done, said = on_two_hosts(tmp_path, 60)
    assert done.returncode == 0, (done.stderr, said)
    assert [text.splitlines()[-1] for text in said] == [f"sum [2.0, 2.0, 2.0] on {name}" for name in ("va", "vb")]


def test_who_cannot_connect_is_told_within_the_deadline_what_to_do(tmp_path):
    done, said = on_two_hosts(tmp_path, 6, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode != 0
    remedy = "on the network that leads to MASTER_ADDR, here by lo (export GLOO_SOCKET_IFNAME=NAME"
    # who gives up later may find the store gone, which device 0 keeps here
    assert any(remedy in text for text in said)
    assert all(remedy in text or "lost device 0 during joining" in text for text in said)


if __name__ == "__main__":
    join()
