"""A connection with TLS, before there is any."""

import socket
import ssl
import struct

import pytest

from scadles.fabric.hub.connection import ClosedError
from scadles.fabric.hub.secure import SecureConnection

AT_ONCE = struct.pack("ii", 1, 0)  # of SO_LINGER: a connection that is closed is reset


@pytest.mark.filterwarnings("error")
def test_one_that_is_over_already_leaves_no_socket_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        device = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        accepted.close()
        with pytest.raises(ConnectionResetError):
            device.recv(1)
    with pytest.raises(ClosedError):
        SecureConnection(device, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), at_hub=False)
    assert device.fileno() == -1
