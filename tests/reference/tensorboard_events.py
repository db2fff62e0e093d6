"""Event files of TensorBoard, read byte by byte, as it would read them."""

import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog


def crc32c(data):
    """Castagnoli's checksum, a bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events_in(path):
    """TFRecord: the length and its checksum, then so many bytes and theirs."""
    data, events, start = path.read_bytes(), [], 0
    while start < len(data):
        (length,) = struct.unpack("<Q", data[start : start + 8])
        assert struct.unpack("<I", data[start + 8 : start + 12]) == (
            masked(data[start : start + 8]),
        )
        body = data[start + 12 : start + 12 + length]
        assert struct.unpack("<I", data[start + 12 + length : start + 16 + length]) == (
            masked(body),
        )
        events.append(Event.FromString(body))
        start += 16 + length
    return events


def shown(folder):
    """{tag: [(step, value), …]}: a start takes back what was said of its step and later ones."""
    curves = {}
    for path in sorted(folder.iterdir()):
        for event in events_in(path):
            if event.session_log.status == SessionLog.START:
                curves = {
                    tag: [(step, value) for step, value in points if step < event.step]
                    for tag, points in curves.items()
                }
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves
