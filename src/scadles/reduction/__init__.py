"""Sparse updates of all devices become one sum, by whichever way sends least."""

from scadles.reduction.compressor import SCALARS, Compressor, Gates, OncePerStep
from scadles.reduction.contract import Collectives, Reduction, SparseReducer, Sums, reduce_together
from scadles.reduction.costs import Choice, Volume, choose_reducer, dense_volume, gather_volume, split_volume
from scadles.reduction.exchange import CompressedExchange
from scadles.reduction.fleet import FleetExchange
from scadles.reduction.gather import GatherReducer
from scadles.reduction.powersgd import PowerSgdReducer, powersgd_volume
from scadles.reduction.split import SplitReducer
from scadles.reduction.timed import TimedLink
from scadles.reduction.whole import All, WholeReducer, whole_volume

__all__ = [
    "SCALARS",
    "All",
    "Choice",
    "Collectives",
    "CompressedExchange",
    "Compressor",
    "FleetExchange",
    "Gates",
    "GatherReducer",
    "OncePerStep",
    "PowerSgdReducer",
    "Reduction",
    "SparseReducer",
    "SplitReducer",
    "Sums",
    "TimedLink",
    "Volume",
    "WholeReducer",
    "choose_reducer",
    "dense_volume",
    "gather_volume",
    "powersgd_volume",
    "reduce_together",
    "split_volume",
    "whole_volume",
]
