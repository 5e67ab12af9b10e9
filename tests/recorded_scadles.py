"""``scadles`` that also writes down what it hands to its connections, before anything is encrypted.

What comes back is in FILE as well. FILE.labels has the last 32 bytes of messages with samples, where their labels are.

    python recorded_scadles.py FILE ARGUMENTS OF SCADLES
"""

import sys
from pathlib import Path

from scadles.cli.app import main
from scadles.fabric.hub.frames import Kind
from scadles.fabric.hub.messages import HubMessages
from scadles.fabric.hub.session import Session

_send, _give, _wait_for = Session.send, Session.give, HubMessages.wait_for


def record(file):
    """Let each message be appended to a file."""

    def write(content, to=file):
        with to.open("ab") as appended:
            appended.write(content)
        return content

    def send(self, frame, content):
        write(content)
        if frame.kind is Kind.RELAY:
            write(content[-32:], file.with_suffix(".labels"))
        _send(self, frame, content)

    def give(self, views, make):
        _give(self, views, lambda: write(make()))

    def wait_for(self, key, phase):
        return write(_wait_for(self, key, phase))

    Session.send, Session.give, HubMessages.wait_for = send, give, wait_for


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    sys.argv = ["scadles", *sys.argv[2:]]
    main()
