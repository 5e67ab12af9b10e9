"""A hub with TLS and devices that it has enrolled, for the tests that do not make their own."""

from contextlib import ExitStack

import pytest

from secure_hub import SecureHub


@pytest.fixture
def closing():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def hub(tmp_path, closing):
    def start(seats=3, folder="hub", **more):
        serving = SecureHub(tmp_path / folder, seats, **more)
        closing.callback(lambda: serving.close())
        return serving

    return start


@pytest.fixture
def connect(closing, tmp_path):
    def one(serving, name, credentials=None, **more):
        fabric = serving.connect(name, credentials or serving.enrol(tmp_path / name, name), **more)
        closing.callback(fabric.close)
        return fabric

    return one
