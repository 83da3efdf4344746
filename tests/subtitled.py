"""Films with subtitles inside, made from the film of the astronaut by copying packets."""

import io
from fractions import Fraction
from pathlib import Path

import av
from av.stream import Disposition

FORMS = {
    "srt": "1\n00:00:00,300 --> 00:00:04,600\nI am <i>so</i> happy.\n\n2\n00:00:05,000 --> 00:00:08,400\nThe suit is heavy, and\nit makes me angry.\n",
    "webvtt": "WEBVTT\n\n00:00.300 --> 00:04.600\nI am <i>so</i> happy.\n\n00:05.000 --> 00:08.400\nThe suit is heavy, and\nit makes me angry.\n",
    "ass": (
        "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,20\n\n"
        "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        "Dialogue: 0,0:00:00.30,0:00:04.60,Default,,0,0,0,,I am {\\i1}so{\\i0} happy.\n"
        "Dialogue: 0,0:00:05.00,0:00:08.40,Default,,0,0,0,,The suit is heavy, and\\Nit makes me angry.\n"
    ),
}
TEXTS = ["I am so happy.", "The suit is heavy, and it makes me angry."]


def subtitled(
    film: Path, path: Path, texts: list[tuple[str, str]], languages: tuple[str, ...] = (), *, forced: bool = False
) -> Path:
    """The film with one stream for each (form, text), FFmpeg's subtitle demuxers giving the packets."""
    with av.open(film) as source, av.open(path, "w") as output:
        made = {each.index: output.add_stream_from_template(each, opaque=True) for each in source.streams}
        packets = []
        for packet in source.demux():
            if packet.size:
                packet.stream = made[packet.stream.index]
                packets.append(packet)
        readers = [av.open(io.BytesIO(text.encode()), format=form) for form, text in texts]
        for place, reader in enumerate(readers):
            stream = output.add_stream_from_template(reader.streams[0], opaque=True)
            if forced:
                stream.disposition = Disposition.forced
            if languages:
                stream.metadata["language"] = languages[place]
            for packet in reader.demux():
                if packet.size:
                    packet.stream = stream
                    packets.append(packet)
        for packet in sorted(
            packets, key=lambda each: float((each.pts if each.dts is None else each.dts) * each.time_base)
        ):
            output.mux(packet)
        for reader in readers:
            reader.close()
    return path


def with_mov_text(film: Path, path: Path) -> Path:
    """An MP4 with tx3g subtitles (3GPP TS 26.245: two bytes of length, then UTF-8), an empty one in the gap."""
    rows = [(300, 4600, TEXTS[0]), (4600, 5000, ""), (5000, 8400, TEXTS[1])]
    with av.open(film) as source, av.open(path, "w") as output:
        made = {each.index: output.add_stream_from_template(each, opaque=True) for each in source.streams}
        packets = []
        for packet in source.demux():
            if packet.size:
                packet.stream = made[packet.stream.index]
                packets.append(packet)
        stream = output.add_stream("mov_text")
        stream.codec_context.subtitle_header = FORMS["ass"].partition("Dialogue")[0].encode()
        stream.codec_context.time_base = Fraction(1, 1000)
        for start_ms, end_ms, text in rows:
            packet = av.Packet(len(text.encode()).to_bytes(2, "big") + text.encode())
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = start_ms
            packet.duration = end_ms - start_ms
            packets.append(packet)
        for packet in sorted(
            packets, key=lambda each: float((each.pts if each.dts is None else each.dts) * each.time_base)
        ):
            output.mux(packet)
    return path
