"""What connects the devices."""

from scadles.fabric.contract import Fabric, Pending
from scadles.fabric.local import LocalFabric
from scadles.fabric.torch_dist import TorchFabric

__all__ = ["Fabric", "LocalFabric", "Pending", "TorchFabric"]
