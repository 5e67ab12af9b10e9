"""What connects the devices."""

from scadles.fabric.contract import ElasticFabric, Fabric, Pending, View
from scadles.fabric.local import LocalFabric
from scadles.fabric.torch_dist import TorchFabric

__all__ = ["ElasticFabric", "Fabric", "LocalFabric", "Pending", "TorchFabric", "View"]
