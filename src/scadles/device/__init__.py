"""One device: its stream, its batch, its side of a step."""
