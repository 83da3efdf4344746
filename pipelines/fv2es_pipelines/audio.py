"""The sound of a clip's utterances: 16 kHz mono, placed by timestamps."""

import math
from bisect import insort
from dataclasses import dataclass, field

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream

from fv2es_pipelines.clip import OpenClip
from fv2es_pipelines.constants import SAMPLE_RATE_HZ
from fv2es_pipelines.errors import ClipTooLarge

Wave = npt.NDArray[np.float32]

_MAX_DRIFT_S = 0.010
"""A frame of sound this far from where its predecessors lead to begins a new run. Containers round timestamps by 1 ms."""
_LARGEST = float(np.nextafter(np.float32(1), np.float32(0)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sound:
    """The sound of U utterances."""

    waves: tuple[Wave | None, ...]
    """For each utterance float32 [round(length * 16000)] in [-1, 1); silence where the clip has none; None where
    it has none in all of the utterance."""
    audio_errors: int
    """Packets of sound that failed to decode and would have been heard in an utterance."""


@dataclass(kw_only=True, slots=True)
class _Run:
    """Sound without a gap, resampled. `offsets_s` are the starts of the run as each frame's timestamp claims, ascending."""

    rate_hz: int
    shape: tuple[str, str, int]
    resampler: AudioResampler
    num_source: int = 0
    offsets_s: list[float] = field(default_factory=list)
    parts: list[Wave] = field(default_factory=list)

    def next_s(self) -> float:
        return self._start_s() + self.num_source / self.rate_hz

    def add(self, frame: AudioFrame, pts_s: float) -> None:
        insort(self.offsets_s, pts_s - self.num_source / self.rate_hz)
        self.num_source += frame.samples
        frame.pts = None  # the run's place is known; the resampler must not stretch towards timestamps
        self._take(self.resampler.resample(frame))

    def finished(self) -> "_Placed":
        self._take(self.resampler.resample(None))
        wave = np.concatenate(self.parts) if self.parts else np.zeros(0, np.float32)
        return _Placed(start_s=self._start_s(), wave=wave)

    def _start_s(self) -> float:
        """The median: rounded timestamps scatter round the truth, and it is nearer to it than the first one."""
        middle = len(self.offsets_s) // 2
        return (self.offsets_s[middle] + self.offsets_s[~middle]) / 2

    def _take(self, frames: list[AudioFrame]) -> None:
        self.parts += [frame.to_ndarray()[0].astype(np.float32, copy=False) for frame in frames]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placed:
    """Resampled sound whose first sample lies at `start_s`."""

    start_s: float
    wave: Wave


def read_sound(clip: OpenClip, utterances_s: npt.NDArray[np.float64]) -> Sound:
    """The sound of each utterance, decoded in one pass.

    All sample formats, rates and layouts are taken. Channels are mixed with the weights that FFmpeg uses, scaled to sum to 1, so
    that nothing clips: stereo is averaged. Gaps between timestamps are silence; where sound overlaps, the earlier wins.

    Args:
        clip: an open clip.
        utterances_s: checked, float64 [U, 2].

    Raises:
        UnsupportedCodec: the sound is compressed with a codec outside the allow-list.
        ClipTooLarge: the clip holds more sound than its limits allow.
    """
    stream = clip.audio()
    if stream is None:
        return Sound(waves=(None,) * len(utterances_s), audio_errors=0)
    decoder = _RunDecoder(clip, stream, utterances_s)
    placed = decoder.runs()
    waves = tuple(_cut_wave(placed, start_s, end_s) for start_s, end_s in utterances_s)
    return Sound(waves=waves, audio_errors=decoder.errors)


class _RunDecoder:
    def __init__(self, clip: OpenClip, stream: AudioStream, utterances_s: npt.NDArray[np.float64]) -> None:
        self.errors = 0
        self._clip, self._stream, self._utterances_s = clip, stream, utterances_s
        self._time_base_s = float(stream.time_base or 1)
        self._placed: list[_Placed] = []
        self._run: _Run | None = None
        self._decoded_s = 0.0

    def runs(self) -> list[_Placed]:
        until_s = float(self._utterances_s[:, 1].max())
        for packet in self._clip.packets(self._stream):
            pts_s = None if packet.pts is None else packet.pts * self._time_base_s
            if pts_s is not None and pts_s > until_s + 1:
                break
            try:
                frames = self._stream.codec_context.decode(packet)
            except av.FFmpegError:
                self.errors += self._is_heard(pts_s, (packet.duration or 0) * self._time_base_s)
                continue
            self._add(frames)
        try:
            self._add(self._stream.codec_context.decode(None))
        except EOFError:  # nothing was ever sent
            pass
        except av.FFmpegError:
            self.errors += 1
        self.errors += self._clip.damaged
        self._finish_run()
        return self._placed

    def _add(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            if not frame.samples:
                continue
            self._decoded_s += frame.samples / frame.sample_rate
            if self._decoded_s > self._clip.limits.max_duration_s:
                raise ClipTooLarge("max_duration_s", value=self._decoded_s, limit=self._clip.limits.max_duration_s)
            shape = (frame.format.name, frame.layout.name, frame.sample_rate)
            expected_s = self._run.next_s() if self._run is not None else 0.0
            pts_s = expected_s if frame.pts is None else frame.pts * self._time_base_s
            if self._run is None or self._run.shape != shape or abs(pts_s - expected_s) > _MAX_DRIFT_S:
                self._finish_run()
                # Without the option, swresample adds channels up when the result is in floating point.
                mixer = AudioResampler("fltp", "mono", SAMPLE_RATE_HZ, options={"rematrix_maxval": "1.0"})
                self._run = _Run(rate_hz=frame.sample_rate, shape=shape, resampler=mixer)
            self._run.add(frame, pts_s)

    def _finish_run(self) -> None:
        if self._run is not None:
            self._placed.append(self._run.finished())
            self._run = None

    def _is_heard(self, pts_s: float | None, length_s: float) -> bool:
        if pts_s is None:
            return True
        starts_s, ends_s = self._utterances_s.T
        return bool(np.any((pts_s < ends_s) & (pts_s + length_s > starts_s)))


def _cut_wave(placed: list[_Placed], start_s: float, end_s: float) -> Wave | None:
    num_samples = round((end_s - start_s) * SAMPLE_RATE_HZ)
    wave = np.zeros(num_samples, np.float32)
    covered = np.zeros(num_samples, bool)
    for run in placed:
        first = round((run.start_s - start_s) * SAMPLE_RATE_HZ)
        low, high = max(first, 0), min(first + len(run.wave), num_samples)
        if low >= high:
            continue
        free = ~covered[low:high]
        wave[low:high][free] = run.wave[low - first : high - first][free]
        covered[low:high] = True
    if not covered.any():
        return None
    return np.clip(np.nan_to_num(wave, copy=False, nan=0.0, posinf=math.inf, neginf=-math.inf), -1.0, _LARGEST)
