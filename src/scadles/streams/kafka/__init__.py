"""Kafka: topics as streams."""
