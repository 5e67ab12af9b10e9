"""How gradients become one: weights, the exchange, the learning-rate scale, BatchNorm statistics."""

from scadles.aggregation.batchnorm import BatchNormStatistics
from scadles.aggregation.exchange import GradientExchange, Report, Reports
from scadles.aggregation.learning_rate import LearningRate, scaling_for

__all__ = ["BatchNormStatistics", "GradientExchange", "LearningRate", "Report", "Reports", "scaling_for"]
