"""Event files of TensorBoard, read as their format says."""

import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog


def events_in(path):
    """TFRecord: the length of an event, a checksum, the event, another checksum."""
    data, start = path.read_bytes(), 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        yield Event.FromString(data[start + 12 : start + 12 + length])
        start += 16 + length


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
