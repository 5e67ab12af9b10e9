"""Gradients as few bytes: what is sent, what is kept back, when it pays, and how it looks on the wire."""

from scadles.exchange.compression.cost_gate import CostGate
from scadles.exchange.compression.energy import energy
from scadles.exchange.compression.header import Header, WireError
from scadles.exchange.compression.norm_gate import NormGate
from scadles.exchange.compression.ratio_gate import RATIOS, RatioGate, Times
from scadles.exchange.compression.residual import ErrorFeedback, Feedback, MomentumCorrection
from scadles.exchange.compression.sampled import SampledTopK
from scadles.exchange.compression.selection import ExactTopK, PerSlice, RandomK, Selector
from scadles.exchange.compression.sparse import Sparse, squared_norm
from scadles.exchange.compression.window_choice import AtBest, WindowChoice
from scadles.exchange.compression.wire import (
    Encoded,
    EncodedDense,
    add_message,
    budget_bytes,
    decode,
    decode_dense,
    dense_bytes,
    encode,
    encode_dense,
)

__all__ = [
    "RATIOS",
    "AtBest",
    "CostGate",
    "Encoded",
    "EncodedDense",
    "ErrorFeedback",
    "ExactTopK",
    "Feedback",
    "Header",
    "MomentumCorrection",
    "NormGate",
    "PerSlice",
    "RandomK",
    "RatioGate",
    "SampledTopK",
    "Selector",
    "Sparse",
    "Times",
    "WindowChoice",
    "WireError",
    "add_message",
    "budget_bytes",
    "decode",
    "decode_dense",
    "dense_bytes",
    "encode",
    "encode_dense",
    "energy",
    "squared_norm",
]
