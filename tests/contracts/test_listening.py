"""Devices of a static group listen on the address that they are given, and on no other."""

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells where a process listens")

ALONE = """
import json, os, sys
import torch
sys.path[:0] = json.loads(sys.argv[1])
from test_listening import listening
from scadles.fabric import TorchFabric

fabric = TorchFabric("gloo", 60.0, torch.device("cpu"), sleep=lambda _: None)
if fabric.rank == 0:
    print(json.dumps(listening()), flush=True)
fabric.gather(torch.zeros(1), "the end")
fabric.close()
"""


def listening():
    """Return on which addresses this process listens, by /proc."""
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    mine = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for row in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = row.split()[:10]
            if state == "0A" and inode in mine:
                words = bytes.fromhex(local.partition(":")[0])
                address = b"".join(struct.pack("!I", word) for word in struct.unpack(f"={len(words) // 4}I", words))
                found.append(socket.inet_ntop(family, address))
    return found


def own_address():
    """Return an address of this host that is not loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback's")
        return probe.getsockname()[0]


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_store_and_gloo_listen_on_loopback_alone(address):
    found = where_device_0_listens(address)
    assert len(found) >= 2, "the store and gloo"
    assert set(found) <= {"127.0.0.1", "::1"}


def test_they_listen_on_the_address_that_is_given_alone():
    address = own_address()
    found = where_device_0_listens(address)
    assert len(found) >= 2
    assert set(found) == {address}


def test_gloo_listens_on_the_interface_that_is_given():
    address = own_address()
    found = where_device_0_listens(address, GLOO_SOCKET_IFNAME="lo")
    assert set(found) == {address, "127.0.0.1"}


TRAINED = """
import json, sys
import scadles
from scadles.fabric import rendezvous

rendezvous._own_address_towards = lambda host: sys.argv[1]
settings = {"method": "ddl", "steps": 2, "picture": False, "target_accuracy": None, "clock": {"speed": 50}}
scadles.train(settings | {"batch": {"size": 8}}, out=sys.argv[2], quiet=True)
"""


@pytest.mark.parametrize(("own", "warned"), [("203.0.113.7", False), ("8.8.4.4", True)])
def test_a_run_over_a_public_address_is_warned_of(tmp_path, own, warned):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    more = {**group, "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRAINED, own, tmp_path / "run"],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}, **more},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = f"warning: devices connect by {own}, which is public: nothing that travels is encrypted"
    assert (said in done.stderr) == warned
    events = (tmp_path / "run" / "events-0.jsonl").read_text()
    assert (f"devices connect by {own}, which is public" in events) == warned


def where_device_0_listens(address, **more):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": str(port), **more}
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith(("GLOO", "TORCHELASTIC", "COVERAGE"))}
    here = json.dumps([str(Path(__file__).parent)])
    devices = [
        subprocess.Popen(
            [sys.executable, "-c", ALONE, here],
            env={**surroundings, **group, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [device.communicate(timeout=200)[0] for device in devices]
    assert [device.returncode for device in devices] == [0, 0]
    return json.loads(said[0])
