"""What a device refuses to share never leaves it: read from the loopback interface, byte by byte.

Four gloo devices (run as a script, this file is one of them) train on digits, whose samples of 64 bytes travel as they
are. Everything that goes over TCP meanwhile is recorded by a packet socket, put together connection by connection, and
searched for samples.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch

import scadles
from scadles.assembly import build_dataset, build_partition
from scadles.assembly.injection import build_sample_format
from scadles.config import load_config
from scadles.observe import RunFolder

DEVICES = 4
REFUSED = {0: [3, 8], 1: [3], 2: [3], 3: [3]}
CONFIG = {
    "devices": DEVICES,
    "steps": 12,
    "picture": False,
    "method": "ddl",
    "batch": {"size": 32},
    "stream": {"rates": 320.0},
    "injection": {"alpha": 1.0, "beta": 0.5, "refuse_labels": REFUSED, "refuse_devices": [2]},
}


def in_a_network_of_its_own(work):
    """Do ``work()`` in a thread whose loopback interface, and that of all it starts, carries nobody else's packets."""

    def alone():
        if ctypes.CDLL(None).unshare(0x40000000):  # CLONE_NEWNET
            pytest.skip("a network of its own needs Linux and root, or CAP_SYS_ADMIN")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_one:
            fcntl.ioctl(any_one, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(alone).result()


class Recorder:
    """Keeps every byte that TCP connections carry over the loopback interface from entering to leaving."""

    def __enter__(self):
        try:
            self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        except (AttributeError, PermissionError):
            pytest.skip("recording packets needs Linux and root, or CAP_NET_RAW")
        self._packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**26)
        self._packets.bind(("lo", 0))
        self._packets.settimeout(0.2)
        self._frames, self._over = [], Event()
        self._thread = Thread(target=self._listen)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        self._packets.close()

    def _listen(self):
        while True:  # until all that was there when it was over has been read
            try:
                frame, address = self._packets.recvfrom(2**17)
            except TimeoutError:
                if self._over.is_set():
                    return
                continue
            if address[2] != socket.PACKET_OUTGOING:  # each packet on loopback is seen twice
                self._frames.append(frame)

    def connections(self):
        """What was carried in each direction of each connection, by (source port, destination port)."""
        segments = {}
        for frame in self._frames:
            ip = frame[14:]
            if len(ip) < 20 or ip[9] != socket.IPPROTO_TCP:
                continue
            header, length = 4 * (ip[0] & 15), struct.unpack_from("!H", ip, 2)[0]
            tcp = ip[header:length] if length else ip[header:]
            source, destination, sequence = struct.unpack_from("!HHI", tcp)
            if payload := tcp[4 * (tcp[12] >> 4) :]:
                sent = segments.setdefault((source, destination), {})
                begun = next(iter(sent.values()))[0] if sent else sequence
                ahead = (sequence - begun + 2**31) % 2**32 - 2**31  # sequence numbers begin anywhere, and may wrap
                if len(payload) > len(sent.get(ahead, (0, b""))[1]):  # what is sent again may be shorter
                    sent[ahead] = begun, payload
        return {ports: _joined({at: part for at, (_, part) in sent.items()}) for ports, sent in segments.items()}


def _joined(parts):
    """Segments in order; what was sent again is there once."""
    start = min(parts)
    carried = bytearray()
    for sequence in sorted(parts):
        new = len(carried) - (sequence - start)
        if 0 <= new < len(parts[sequence]):
            carried += parts[sequence][new:]
    return bytes(carried)


def messages(stream, form):
    """All whole messages of samples in a stream of bytes."""
    place = stream.find(b"ScDS")
    while place >= 0:
        (count,) = struct.unpack_from("<I", stream, place + 8)
        raw = np.frombuffer(stream[place : place + form.message_bytes(count)], dtype=np.uint8)
        yield form.unpack(torch.from_numpy(raw.copy()), sender=-1)
        place = stream.find(b"ScDS", place + 1)


def which_are_in(samples, stream):
    """Which of these samples, uint8 ``[n, size]``, lie somewhere in a stream of bytes, bool ``[n]``."""
    size = samples.shape[1]
    parts = samples.reshape(len(samples), -1, 8)
    telling = np.count_nonzero(parts, axis=2).argmax(axis=1)  # of each sample the eight bytes that say most
    signatures = np.ascontiguousarray(parts[np.arange(len(samples)), telling]).view("<u8").ravel()
    found = np.zeros(len(samples), dtype=bool)
    for shift in range(min(8, len(stream) - 7)):
        windows = np.frombuffer(stream[shift : len(stream) - (len(stream) - shift) % 8], dtype="<u8")
        for window in np.flatnonzero(np.isin(windows, signatures)).tolist():
            for sample in np.flatnonzero((signatures == windows[window]) & ~found).tolist():
                begin = shift + 8 * window - 8 * int(telling[sample])
                found[sample] = begin >= 0 and stream[begin : begin + size] == samples[sample].tobytes()
    return found


def test_a_sample_is_found_wherever_it_lies():
    samples = np.random.default_rng(0).integers(0, 17, (5, 64), dtype=np.uint8)
    stream = b"abc" + samples[1].tobytes() + bytes(13) + samples[3].tobytes() + samples[4].tobytes()[:-1]
    assert which_are_in(samples, stream).tolist() == [False, True, False, True, False]


@pytest.mark.timeout(300)
def test_a_refused_sample_never_leaves(in_processes, tmp_path):
    config = load_config(CONFIG)
    dataset = build_dataset(config)
    partition, form = build_partition(config, dataset), build_sample_format(dataset)

    def recorded():
        with Recorder() as recorder:
            return recorder, in_processes(__file__, DEVICES, tmp_path)

    recorder, outcomes = in_a_network_of_its_own(recorded)
    assert [code for code, _ in outcomes] == [0] * DEVICES
    told = json.loads(outcomes[0][1])
    carried = recorder.connections()

    arrived = [samples for stream in carried.values() for samples in messages(stream, form)]
    labels = np.concatenate([samples.y.numpy() for samples in arrived])
    # nothing escaped the recording: all that devices say they have sent was seen, intact
    assert len(labels) == told["shared"]["samples"] * (DEVICES - 1)
    assert len(arrived) == CONFIG["steps"] * DEVICES * (DEVICES - 1)
    assert set(labels.tolist()) == {0, 1, 2, 4, 5, 6, 7, 8, 9}

    # who shares nothing sends empty messages: each connection between devices can be told by them
    between_devices = {ports for ports, stream in carried.items() if b"ScDS" in stream}
    assert len(between_devices) == DEVICES * (DEVICES - 1)
    everything = b"\n".join(carried[ports] for ports in between_devices)
    found = {device: {} for device in range(DEVICES)}
    for device in range(DEVICES):
        taken = told["per_device"][device]["samples"]["trained"]
        x, y = dataset.samples(partition.indices(np.array([device]), np.arange(taken)))
        seen = which_are_in(x.numpy().reshape(len(x), -1), everything)
        for label in range(10):
            found[device][label] = set(seen[y.numpy() == label].tolist())
    for device, by_label in found.items():
        for label, seen in by_label.items():
            refuses = device == 2 or label in REFUSED[device]
            assert seen == {False} if refuses else True in seen, f"device {device}, label {label}"

    run = RunFolder(tmp_path)
    assert all(step.shared == 0 < step.withheld for step in run.steps(2))
    assert sum(step.withheld for step in run.steps(0)) == told["per_device"][0]["shared"]["withheld"] > 0
    assert told["shared"]["sent_bytes"] == told["shared"]["payload_bytes"] * (DEVICES - 1) < told["bytes_sent"]


def test_who_breaks_out_of_the_loop_does_not_leave_the_others_waiting(in_threads, tmp_path):
    def work(fabric):
        with scadles.join(CONFIG, out=tmp_path, fabric=fabric, clock=scadles.VirtualClock(), quiet=True) as device:
            for number, batch in enumerate(device.batches()):
                if fabric.rank == 1 and number == 3:
                    break
                device.step(device.model(batch.x).square().mean())
        return device.summary

    summaries = in_threads(DEVICES, work)
    assert {summary.ended_by for summary in summaries} == {"stopped"}
    assert {summary.steps for summary in summaries} == {4}


if __name__ == "__main__":
    with closing(sys.stdout):
        summary = scadles.train(CONFIG, out=Path(sys.argv[1]), quiet=True)
        print(summary.model_dump_json(), flush=True)
    os._exit(0)
