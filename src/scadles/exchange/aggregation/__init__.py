"""How gradients become one: weights, the exchange, the learning-rate scale, BatchNorm statistics."""

from scadles.exchange.aggregation.adaptive_rate import AdaptiveRate
from scadles.exchange.aggregation.batchnorm import BatchNormStatistics
from scadles.exchange.aggregation.buffers import ForwardBuffers
from scadles.exchange.aggregation.dense import GradientExchange
from scadles.exchange.aggregation.learning_rate import LearningRate, scaling_for
from scadles.exchange.aggregation.reports import NOT_FINITE, REJECTS_TOO_MUCH, STREAM_ENDED, Report, Reports

__all__ = [
    "NOT_FINITE",
    "REJECTS_TOO_MUCH",
    "STREAM_ENDED",
    "AdaptiveRate",
    "BatchNormStatistics",
    "ForwardBuffers",
    "GradientExchange",
    "LearningRate",
    "Report",
    "Reports",
    "scaling_for",
]
