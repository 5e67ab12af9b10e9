"""Real servers on loopback, for tests and for playing."""
