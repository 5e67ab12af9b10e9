"""Devices behind routers of their own, and a hub that all of them reach: network namespaces, which end with pytest.

Every device has the same private address. Its router lets it connect outwards under the router's own address (NAT), and
lets nothing in that was not asked for.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HUB = "10.77.0.1"
_CLONE_NEWNET = 0x40000000
_ROUTER = """
table inet nat {
  chain input { type filter hook input priority 0; policy drop; iifname "lan" accept; }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "lan" oifname "wan" accept
  }
  chain postrouting { type nat hook postrouting priority 100; oifname "wan" masquerade; }
}
"""


class Namespace:
    """A network of its own, kept by a process that waits at a pipe of this one."""

    def __init__(self):
        keep = ["unshare", "--net", "sh", "-c", "echo made; exec cat"]
        self._keeper = subprocess.Popen(
            keep, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if self._keeper.stdout.readline() != "made\n":
            pytest.skip(f"no network namespaces here: {self._keeper.communicate()[1].strip()}")
        self.pid = self._keeper.pid

    def do(self, script, given=None):
        """Run lines of a shell in it."""
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "sh", "-euc", script]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}: {done.stderr}"

    @contextlib.contextmanager
    def entered(self):
        """Let this thread be in it: what it starts and connects meanwhile."""
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.pid}/ns/net") as here:  # noqa: PTH123
            _enter(here)
            try:
                yield
            finally:
                _enter(home)

    def close(self):
        self._keeper.communicate()


class Internet:
    """A hub's network, and one behind a router for each device.

    Attributes:
        hub: where the hub is to run, at address :data:`HUB`.
        devices: where the devices are to run.
    """

    def __init__(self, devices):
        self._all, self._routers = [], []
        self.hub = self._made()
        self.hub.do(f"ip link set lo up; ip link add net type bridge; ip link set net up; ip addr add {HUB}/24 dev net")
        self.devices = [self._device(number) for number in range(devices)]

    def address(self, number):
        """The only one under which others see a device: its router's."""
        return f"10.77.0.{number + 2}"

    def cut(self, number):
        """Lose everything that is on its way between a device's router and the hub, without a word to either."""
        self.hub.do(f"bridge link set dev to{number} state disabled")

    def mend(self, number):
        self.hub.do(f"bridge link set dev to{number} state forwarding")

    def thin(self, number, mbit, queue):
        """Let so little through between a device and the hub, and let its router keep what waits, as in "3s"."""
        bucket = f"root tbf rate {mbit}mbit burst 1540b latency {queue}"
        self._routers[number].do(f"tc qdisc add dev wan {bucket}; tc qdisc add dev lan {bucket}")

    def close(self):
        for namespace in self._all:
            namespace.close()

    def _made(self):
        self._all.append(Namespace())
        return self._all[-1]

    def _device(self, number):
        router, device = self._made(), self._made()
        self._routers.append(router)
        self.hub.do(f"ip link add to{number} type veth peer name wan netns {router.pid}; ip link set to{number} up")
        self.hub.do(f"ip link set to{number} master net")
        router.do(f"ip addr add {self.address(number)}/24 dev wan; ip link set wan up")
        router.do(f"ip link add lan type veth peer name eth0 netns {device.pid}")
        router.do("ip addr add 192.168.1.1/24 dev lan; ip link set lan up; echo 1 > /proc/sys/net/ipv4/ip_forward")
        router.do("nft -f -", _ROUTER)
        device.do("ip link set lo up; ip addr add 192.168.1.2/24 dev eth0; ip link set eth0 up")
        device.do("ip route add default via 192.168.1.1")
        return device


@pytest.fixture
def internet():
    """Make a hub's network and those of some devices: ``internet(devices)``."""
    programs = {"ip": "iproute2", "bridge": "iproute2", "tc": "iproute2", "nft": "nftables", "unshare": "util-linux"}
    missing = sorted({package for name, package in programs.items() if not shutil.which(name)})
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("devices behind routers need Linux's network namespaces, and root to make them")
    if missing:
        pytest.skip(f"devices behind routers need {', '.join(missing)}: apt-get install {' '.join(missing)}")
    made = []

    def make(devices):
        made.append(Internet(devices))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _enter(network):
    if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter {Path(network.name)}")
