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


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_store_and_gloo_listen_on_loopback_alone(address):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": str(port)}
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
    found = json.loads(said[0])
    assert len(found) >= 2, "the store and gloo"
    assert set(found) <= {"127.0.0.1", "::1"}
