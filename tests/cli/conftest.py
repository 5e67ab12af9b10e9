"""Runs of the command line in processes of their own."""

from runs import (  # noqa: F401 - fixtures
    _nobody_is_left_behind,
    _started,
    digits_config,
    finding,
    free_port,
    npz,
    start,
    start_training,
    write_config,
    write_npz,
)
