"""A device that spoils what it sends to its hub, after all of its own checks.

Run as a script it is ``scadles join`` with an attack: ``python liar.py ATTACK join HOST:PORT --name NAME ...``.
"""

import struct
import sys

import torch

import scadles.training.hub
from scadles.cli.app import main
from scadles.exchange.compression import Sparse, decode, encode
from scadles.exchange.compression.header import claims, header_bytes, seal, unseal
from scadles.exchange.reduction.judged_dense import is_dense
from scadles.fabric.hub import HubFabric

_BEFORE_GRADIENTS, _VALUES_AT = 32, 16  # in a dense message that is packed


def spoil(gradients, attack):
    """Spoil a gradient in place."""
    if attack == "1000 times":
        gradients.mul_(1000.0)
    elif attack == "backwards":
        gradients.neg_()
    elif attack == "nan":
        gradients[0] = float("nan")


def spoil_dense(message, attack):
    """Return a whole gradient as :func:`pack` makes it, spoilt."""
    sent = bytearray(message.numpy().tobytes())
    (values,) = struct.unpack_from("<Q", sent, _VALUES_AT)
    spoil(torch.frombuffer(sent, dtype=torch.float32, offset=_BEFORE_GRADIENTS, count=values), attack)
    return torch.frombuffer(sent, dtype=torch.uint8)


def spoil_sparse(message, attack):
    """Return a compressed gradient, spoilt, with a checksum that is right."""
    _, n = claims(message.numpy())
    header, (indices, values) = decode(message, n)
    if attack == "garbage":
        indices = torch.randperm(n)[: len(values)].sort().values
    elif attack != "nan":
        spoil(values, attack)
    scalars, size = header.scalars, len(message)
    encoded = encode(Sparse(indices, values), n, value_type=header.value_type, step=header.step, scalars=scalars, budget_bytes=size)  # fmt: skip  # noqa: E501
    spoilt = encoded.message.numpy().copy()
    if attack == "nan":  # which encode refuses
        parts = unseal(spoilt, n)
        at = header_bytes(len(scalars))
        spoilt[at : at + 4] = torch.tensor([float("nan")]).view(torch.uint8).numpy()
        seal(spoilt, parts.header, len(parts.values), len(parts.indices))
    return torch.from_numpy(spoilt)


class LyingFabric(HubFabric):
    """A device's end of a hub that spoils gradients on their way out."""

    attack = ""

    def fold(self, message, phase):
        spoil_message = spoil_dense if is_dense(message[:4].numpy().tobytes()) else spoil_sparse
        return super().fold(spoil_message(message, self.attack), phase)

    def reduce_step(self, bucket, phase):
        if not self.follows:
            spoil(bucket, self.attack)
        return super().reduce_step(bucket, phase)


if __name__ == "__main__":
    LyingFabric.attack, *arguments = sys.argv[1:]
    scadles.training.hub.HubFabric = LyingFabric
    sys.argv = ["scadles", *arguments]
    main()
