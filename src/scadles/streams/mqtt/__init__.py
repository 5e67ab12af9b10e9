"""MQTT: topics as streams."""
