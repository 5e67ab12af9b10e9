"""Sparse updates of all devices become one sum, by whichever way sends least."""

from scadles.exchange.reduction.cluster import ClusterExchange
from scadles.exchange.reduction.compressed import CompressedExchange
from scadles.exchange.reduction.compressor import SCALARS, SCALARS_BY_RATIO, Compressor
from scadles.exchange.reduction.contract import Collectives, Reduction, SparseReducer, Sums, reduce_together
from scadles.exchange.reduction.gates import Gates, OncePerStep
from scadles.exchange.reduction.gather import GatherReducer
from scadles.exchange.reduction.judged_cluster import JudgedClusterExchange, SeparateExchange
from scadles.exchange.reduction.judged_dense import DenseFold, DenseOwner, EitherOwner, answer_bytes, packed_bytes
from scadles.exchange.reduction.owner import VectorOwner, reply_bytes
from scadles.exchange.reduction.powersgd import PowerSgdReducer, powersgd_volume
from scadles.exchange.reduction.quantized_dense import All, QuantizedDenseReducer, quantized_dense_volume
from scadles.exchange.reduction.split import SplitReducer
from scadles.exchange.reduction.step_folds import GatheredFold, HubFold
from scadles.exchange.reduction.through_hub import Folding, HubReducer
from scadles.exchange.reduction.timed import TimedLink
from scadles.exchange.reduction.volumes import (
    Choice,
    Volume,
    choose_reducer,
    dense_volume,
    gather_volume,
    hub_volume,
    split_volume,
    summed_volume,
    whole_volume,
)

__all__ = [
    "SCALARS",
    "SCALARS_BY_RATIO",
    "All",
    "Choice",
    "ClusterExchange",
    "Collectives",
    "CompressedExchange",
    "Compressor",
    "DenseFold",
    "DenseOwner",
    "EitherOwner",
    "Folding",
    "Gates",
    "GatherReducer",
    "GatheredFold",
    "HubFold",
    "HubReducer",
    "JudgedClusterExchange",
    "OncePerStep",
    "PowerSgdReducer",
    "QuantizedDenseReducer",
    "Reduction",
    "SeparateExchange",
    "SparseReducer",
    "SplitReducer",
    "Sums",
    "TimedLink",
    "VectorOwner",
    "Volume",
    "answer_bytes",
    "choose_reducer",
    "dense_volume",
    "gather_volume",
    "hub_volume",
    "packed_bytes",
    "powersgd_volume",
    "quantized_dense_volume",
    "reduce_together",
    "reply_bytes",
    "split_volume",
    "summed_volume",
    "whole_volume",
]
