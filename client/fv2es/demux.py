"""Opening local media files and reading their packets in order, with the clock of each stream kept sane. Decodes nothing."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from fv2es.errors import MissingStream, NotMedia, SourceNotFound, UnsupportedMedia

CONTAINERS = (
    *("mov", "matroska", "avi", "flv", "mpegts", "mpeg", "asf", "ogg", "nut", "mxf", "ivf"),
    *("wav", "w64", "aiff", "caf", "au", "mp3", "flac", "aac", "ac3", "eac3"),
)
"""Demuxers that may open a file (FFmpeg's names). Playlists and other formats that name further files are left out."""
STILL_IMAGES = ("image2", "png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "gif", "apng")
"""Opened only to be refused by name."""
VIDEO_CODECS = frozenset(["h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "prores"])
AUDIO_CODECS = frozenset(["aac", "mp3", "mp2", "opus", "vorbis", "flac", "alac", "ac3", "eac3"])
"""Beside these every codec whose name starts with pcm_."""
MAX_PIXELS = 8192 * 8192
"""Largest picture that is passed on, in pixels; what lies above is refused before anything is decoded."""
MAX_STREAMS = 128

BACK_S = 1.0
"""A decoding time that falls back by more than this is a jump, not a matter of order."""
LEAP_S = 300.0
"""A leap ahead by more than this must be confirmed by the stream's next packet; alone it is a damaged timestamp."""
MAX_TRIES = 2000
"""Errors in a row after which reading is given up: MPEG-TS is searched by 64 kB at a time, so this is 130 MB without one packet."""
MIN_GAP_S: dict[str, float] = {"audio": 0.1, "video": 2.0}
"""Time between the end of a packet and the next one from which it is named as missing. Pictures may be far apart on purpose."""
MAX_GAPS_NAMED = 20
UNKNOWN_ORDER_S = 1.0
"""Allowance for reordered pictures where a packet has no decoding time of its own."""

Kind = Literal["video", "audio"]

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*://")
_UNWANTED_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
_UNWANTED_SOUND = (
    Disposition.visual_impaired | Disposition.hearing_impaired | Disposition.comment | Disposition.descriptions
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenStreams:
    """The one stream of pictures and the one of sound that are used, and what was said about the others."""

    video: VideoStream | None
    audio: AudioStream | None
    notes: tuple[str, ...]

    def all(self) -> tuple[Stream, ...]:
        """The streams that exist, pictures first."""
        return tuple(stream for stream in (self.video, self.audio) if stream is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Coded:
    """One packet with its times as the source states them. Seconds on the source's clock."""

    packet: "Packet[Any]"
    kind: Kind
    pts: int
    """Presentation time in ticks of the stream; the decoding time where the source gives none."""
    dts: int | None
    duration: int
    time_base: Fraction
    """Seconds in a tick."""
    start_s: float
    """Presentation time."""
    end_s: float
    """`start_s` plus the duration the source states (0 where it states none)."""
    decode_s: float
    """No later packet of the stream is presented before this."""
    is_key: bool
    num_bytes: int


@dataclass(kw_only=True, slots=True)
class ReadReport:
    """What was left out while reading, counted as it happens."""

    num_untimed: int = 0
    num_corrupt: int = 0
    num_strays: int = 0
    num_guessed: int = 0
    num_unreadable: int = 0
    """Places where the container could not be followed and reading went on behind them."""
    gaps: list[tuple[Kind, float, float]] = field(default_factory=list)
    """(stream, end of the packet before, start of the packet after it); no more than `MAX_GAPS_NAMED` for each stream."""
    num_gaps: int = 0
    """All of them."""
    back_jumps: list[tuple[Kind, float, float, int]] = field(default_factory=list)
    """(stream, time before the jump, time after it, packets dropped)."""
    undecodable: list[tuple[Kind, float, int]] = field(default_factory=list)
    """(stream, time of the first packet dropped for want of a key picture, packets dropped)."""
    failure: str = ""
    """Why reading stopped before the end of the file."""

    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of loss."""
        found = [
            (self.num_corrupt, "packets are marked as damaged by the container; they are passed on as they are"),
            (self.num_unreadable, "times the file could not be read on at once; what lies there was skipped"),
            (self.num_untimed, "packets carry no time at all and were left out"),
            (self.num_strays, f"packets lie more than {LEAP_S:g} s off their neighbours and were left out"),
            (self.num_guessed, "pictures carry no presentation time; their decoding time stands in"),
        ]
        lines = [f"{count} {text}" for count, text in found if count]
        lines += [
            f"the timestamps of the {kind} stream jump back from {before_s:.2f} s to {after_s:.2f} s; "
            f"{count} packets that lie in time already passed were left out"
            for kind, before_s, after_s, count in self.back_jumps
        ]
        lines += [
            f"{count} pictures from {start_s:.2f} s on were left out: no key picture precedes them"
            for _, start_s, count in self.undecodable
        ]
        names = {"video": "pictures", "audio": "sound"}
        lines += [
            f"the file holds no {names[kind]} in [{start_s:.2f}, {end_s:.2f}) s" for kind, start_s, end_s in self.gaps
        ]
        if self.num_gaps > len(self.gaps):
            lines.append(f"and none in {self.num_gaps - len(self.gaps)} further stretches")
        if self.failure:
            lines.append(self.failure)
        return tuple(lines)


def open_media(path: str | os.PathLike[str]) -> InputContainer:
    """An open local media file, of a container on the allow-list.

    Raises:
        SourceNotFound: there is no such file, it is a directory or may not be read.
        NotMedia: the bytes are no media, or the index is missing.
        UnsupportedMedia: a URL, a device, or a still image.
    """
    name = os.fspath(path)
    if _URL.match(name):
        raise UnsupportedMedia(name, "is a URL, and only local files are read; download it and give the file")
    file = Path(name)
    try:
        if file.is_dir():
            raise SourceNotFound(name, "is a directory; give one media file")
        if not file.exists():
            raise SourceNotFound(name, "there is no such file; check the path")
        if not file.is_file():
            raise UnsupportedMedia(name, "is neither a regular file nor a link to one; copy its content to a file")
        if file.stat().st_size == 0:
            raise NotMedia(name, "is empty (0 bytes); copy or download it again")
        container = av.open(
            f"file:{file.absolute()}",
            "r",
            options={"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS + STILL_IMAGES)},
            metadata_errors="replace",
        )
    except (PermissionError, av.error.PermissionError) as error:
        raise SourceNotFound(name, "may not be read by this user; change its permissions") from error
    except av.error.FFmpegError as error:
        raise NotMedia(
            name,
            f"FFmpeg finds no media in it that can be read ({error.strerror}). It must be a complete file of one of "
            f"{', '.join(CONTAINERS)}; an MP4 that was cut off has lost its index: copy or download it again",
        ) from error
    if container.format.name in STILL_IMAGES:
        found = container.format.name
        container.close()
        raise UnsupportedMedia(
            name, f"is a still image ({found}), and emotions are read from video or sound; give such a file"
        )
    return container


def codec_name(stream: Stream) -> str:
    """FFmpeg's name of the codec, whichever decoder is built in; `unknown` where FFmpeg has no decoder."""
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else "unknown"


def choose_streams(container: InputContainer, name: str) -> ChosenStreams:
    """The stream of pictures and the stream of sound to be used: the default one, then the best.

    Cover art and thumbnails are no video; data and subtitle streams are left alone.

    Raises:
        MissingStream: neither pictures nor sound.
        UnsupportedMedia: only codecs outside the allow-list, too many streams or too large a picture.
    """
    if len(container.streams) > MAX_STREAMS:
        raise UnsupportedMedia(
            name, f"has {len(container.streams)} streams, at most {MAX_STREAMS} are allowed; extract those you need"
        )
    pictures = [s for s in container.streams.video if not s.disposition & _UNWANTED_PICTURES]
    sounds = list(container.streams.audio)
    if not pictures and not sounds:
        found = [f"{stream.type} {codec_name(stream)}" for stream in container.streams]
        raise MissingStream(name, wanted="video or audio", found=found)
    notes: list[str] = []
    known_pictures = [s for s in pictures if codec_name(s) in VIDEO_CODECS]
    known_sounds = [s for s in sounds if codec_name(s) in AUDIO_CODECS or codec_name(s).startswith("pcm_")]
    for kind, all_of_kind, known in (("video", pictures, known_pictures), ("audio", sounds, known_sounds)):
        if all_of_kind and not known:
            allowed = sorted(VIDEO_CODECS) if kind == "video" else [*sorted(AUDIO_CODECS), "pcm_*"]
            raise UnsupportedMedia(
                name,
                f"{kind} codec {', '.join(sorted({codec_name(s) for s in all_of_kind}))} is not one of "
                f"{', '.join(allowed)}; convert it: ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4",
            )
    sized = [s for s in known_pictures if s.codec_context.width > 0 and s.codec_context.height > 0]
    rated = [s for s in known_sounds if s.codec_context.sample_rate > 0]
    if known_pictures and not sized:
        notes.append("the size of the pictures can't be found, so they are left out")
    if known_sounds and not rated:
        notes.append("the sampling rate of the sound can't be found, so it is left out")
    if not sized and not rated:
        raise UnsupportedMedia(name, f"{'; '.join(notes)}: nothing remains. Convert the file to MP4 and try again")
    video = max(sized, key=_rank_video, default=None)
    audio = max(rated, key=_rank_audio, default=None)
    if video is not None and video.codec_context.width * video.codec_context.height > MAX_PIXELS:
        size = f"{video.codec_context.width}x{video.codec_context.height}"
        raise UnsupportedMedia(name, f"pictures of {size} exceed {MAX_PIXELS} pixels; scale them down first")
    for kind, chosen, others in (("video", video, pictures), ("audio", audio, sounds)):
        if chosen is not None and len(others) > 1:
            notes.append(f"of {len(others)} {kind} streams number {chosen.index} is used")
    return ChosenStreams(video=video, audio=audio, notes=tuple(notes))


def read_packets(container: InputContainer, chosen: ChosenStreams, report: ReadReport) -> Iterator[Coded]:
    """The packets of the chosen streams in the order of the file, without those whose times make no sense.

    A stream of pictures begins with a key picture, and does so again after a jump back. What is left out is counted
    in `report`; a read error ends the iteration and is written there too.
    """
    gates = {stream.index: _Gate(stream, report) for stream in chosen.all()}
    num_tries = 0
    while True:
        try:
            for packet in container.demux(*chosen.all()):
                if packet.size:
                    num_tries = 0
                    yield from gates[packet.stream_index].admit(packet)
        except (av.error.BlockingIOError, av.error.InvalidDataError) as error:
            # The demuxer gave up on what it met and stands behind it: it may find its way again.
            report.num_unreadable += 1
            num_tries += 1
            if num_tries <= MAX_TRIES:
                continue
            report.failure = _failure(gates.values(), error)
        except (av.error.FFmpegError, OSError) as error:
            report.failure = _failure(gates.values(), error)
        break
    for gate in gates.values():
        yield from gate.flush()


def _failure(gates: Iterable["_Gate"], error: av.error.FFmpegError | OSError) -> str:
    last_s = max((gate.last_s for gate in gates if gate.last_s is not None), default=0.0)
    return f"reading failed at {last_s:.2f} s ({error.strerror}); what follows is missing"


class _Gate:
    """Admits the packets of one stream whose decoding times go forward."""

    def __init__(self, stream: Stream, report: ReadReport) -> None:
        self.last_s: float | None = None
        self._kind: Kind = "video" if stream.type == "video" else "audio"
        self._report = report
        self._held: Coded | None = None
        self._is_behind = False
        self._needs_key = self._kind == "video"
        self._is_starved = False
        self._decoded_until_s: float | None = None

    def admit(self, packet: "Packet[Any]") -> Iterator[Coded]:
        coded = self._coded(packet)
        if coded is None:
            return
        if self._held is not None:
            held, self._held = self._held, None
            if abs(coded.decode_s - held.decode_s) <= LEAP_S:
                yield from self._in_order(held)
            else:
                self._report.num_strays += 1
        if self.last_s is not None and coded.decode_s > self.last_s + LEAP_S:
            self._held = coded
            return
        yield from self._in_order(coded)

    def flush(self) -> Iterator[Coded]:
        if self._held is not None:
            held, self._held = self._held, None
            yield from self._in_order(held)

    def _in_order(self, coded: Coded) -> Iterator[Coded]:
        tolerance_s = 0.0 if self._is_behind else BACK_S
        if self.last_s is not None and coded.decode_s < self.last_s - tolerance_s:
            jumps = self._report.back_jumps
            if not self._is_behind:
                jumps.append((self._kind, self.last_s, coded.start_s, 0))
            own = max(i for i, jump in enumerate(jumps) if jump[0] == self._kind)
            jumps[own] = (*jumps[own][:3], jumps[own][3] + 1)
            self._is_behind, self._needs_key = True, self._kind == "video"
            return
        self._is_behind = False
        self.last_s = coded.decode_s if self.last_s is None else max(self.last_s, coded.decode_s)
        if self._needs_key and not coded.is_key:
            starved = self._report.undecodable
            if not self._is_starved:
                starved.append((self._kind, coded.start_s, 0))
            starved[-1] = (*starved[-1][:2], starved[-1][2] + 1)
            self._is_starved = True
            return
        self._needs_key = self._is_starved = False
        self._note_gap(coded)
        yield coded

    def _note_gap(self, coded: Coded) -> None:
        """Note what is missing between the packet before and this one, by the times of decoding, where the container states lengths."""
        time = coded.dts if coded.dts is not None else coded.pts
        start_s = float(time * coded.time_base)
        if self._decoded_until_s is not None and start_s - self._decoded_until_s >= MIN_GAP_S[self._kind]:
            self._report.num_gaps += 1
            if sum(kind == self._kind for kind, _, _ in self._report.gaps) < MAX_GAPS_NAMED:
                self._report.gaps.append((self._kind, self._decoded_until_s, start_s))
        self._decoded_until_s = start_s + float(coded.duration * coded.time_base) if coded.duration else None

    def _coded(self, packet: "Packet[Any]") -> Coded | None:
        self._report.num_corrupt += packet.is_corrupt
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            self._report.num_untimed += 1
            return None
        self._report.num_guessed += packet.pts is None and self._kind == "video"
        base, dts, duration = packet.time_base, packet.dts, max(packet.duration or 0, 0)
        allowance_s = UNKNOWN_ORDER_S if self._kind == "video" else 0.0
        return Coded(
            packet=packet,
            kind=self._kind,
            pts=pts,
            dts=dts,
            duration=duration,
            time_base=base,
            start_s=float(pts * base),
            end_s=float((pts + duration) * base),
            decode_s=float(min(dts, pts) * base) if dts is not None else float(pts * base) - allowance_s,
            is_key=packet.is_keyframe,
            num_bytes=packet.size,
        )


def _rank_video(stream: VideoStream) -> tuple[bool, int, int]:
    context = stream.codec_context
    return bool(stream.disposition & Disposition.default), context.width * context.height, -stream.index


def _rank_audio(stream: AudioStream) -> tuple[bool, bool, int, int]:
    return (
        not stream.disposition & _UNWANTED_SOUND,
        bool(stream.disposition & Disposition.default),
        stream.codec_context.channels,
        -stream.index,
    )
