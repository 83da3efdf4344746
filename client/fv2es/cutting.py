"""Clips: stretches of the source that can be decoded on their own, cut by copying packets in one pass."""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import overload

from fv2es.demux import ReadReport, choose_streams, open_media, read_packets
from fv2es.errors import UsageError
from fv2es.remux import ClipWriter
from fv2es.source import SourceInfo
from fv2es.utterances import Utterance
from fv2es.window import PacketWindow

SHORTFALL_S = 0.5
"""An utterance that the file's data leave by more than this is named as incomplete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRule:
    """How a source is cut into clips."""

    target_length_s: float = 20.0
    """A clip takes on utterances until they cover this much; > 0."""
    first_length_s: float = 5.0
    """For the first clip this is enough, for each further one twice as much as for the one before, up to `target_length_s`, so that the
    first answer comes soon; > 0."""
    max_length_s: float = 120.0
    """A clip grows up to this where the next one would have to begin at the same key picture; >= target_length_s."""
    target_bytes: int = 16_000_000
    """A clip takes on no further utterance that would make it larger than this; > 0."""
    limit_bytes: int = 256_000_000
    """Most bytes from one key picture to the end of an utterance; beyond, pictures are left out and named."""
    pre_roll_s: float = 0.25
    """Sound before the first utterance, so that decoders which build on earlier packets are settled; >= 0."""
    post_roll_s: float = 0.1
    """Sound after the last utterance; >= 0."""
    interleave_s: float = 10.0
    """How far one stream may lag behind the other in the file before it is no longer waited for; > 0."""

    def __post_init__(self) -> None:
        if not 0 < self.target_length_s <= self.max_length_s:
            raise UsageError(
                f"target_length_s={self.target_length_s:g} s must lie in (0, max_length_s={self.max_length_s:g}] s"
            )
        if not self.first_length_s > 0:
            raise UsageError(f"first_length_s={self.first_length_s:g} s must be above 0")
        if not 0 < self.target_bytes <= self.limit_bytes:
            raise UsageError(f"target_bytes={self.target_bytes} must lie in (0, limit_bytes={self.limit_bytes}]")
        if not (self.pre_roll_s >= 0 and self.post_roll_s >= 0):
            raise UsageError(
                f"pre_roll_s={self.pre_roll_s:g} s and post_roll_s={self.post_roll_s:g} s must be at least 0"
            )
        if not self.interleave_s > 0:
            raise UsageError(f"interleave_s={self.interleave_s:g} s must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A small media file on the source's own clock: a timestamp in it is the source's timestamp."""

    index: int
    """Its place in the source, from 0."""
    data: bytes
    container: str
    """FFmpeg's name of the container: mp4, mov, nut or matroska."""
    utterances: tuple[Utterance, ...]
    """At least one. The media begin before the first one: at a key picture, with some sound ahead."""
    start_s: float
    """Start of the first utterance."""
    end_s: float
    """End of the utterance that ends last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LostStretch:
    """An utterance for which the file holds neither pictures nor sound."""

    utterance: Utterance
    reason: str


@dataclass(slots=True)
class CutReport:
    """What cutting could not deliver. Complete once the clips are exhausted."""

    notes: tuple[str, ...] = ()
    losses: tuple[LostStretch, ...] = ()
    num_clips: int = 0
    num_bytes: int = 0
    """Of all clips together."""


@overload
def cut(
    info: SourceInfo,
    utterances: Sequence[Utterance],
    rule: ClipRule | None = None,
    report: CutReport | None = None,
    *,
    sound_only: bool = False,
) -> Iterator[Clip]: ...
@overload
def cut(
    info: SourceInfo,
    utterances: Iterator[Utterance | None],
    rule: ClipRule | None = None,
    report: CutReport | None = None,
    *,
    sound_only: bool = False,
) -> Iterator[Clip | None]: ...
def cut(
    info: SourceInfo,
    utterances: Iterable[Utterance | None],
    rule: ClipRule | None = None,
    report: CutReport | None = None,
    *,
    sound_only: bool = False,
) -> Iterator[Clip | None]:
    """The clips that hold the utterances, in order, each cut when it is asked for.

    Reads the file once from its start and keeps no more than one clip and one run of pictures between key pictures
    in memory. An utterance for which nothing is found comes in no clip; it is named in `report.losses`, and what was
    left out or broken in `report.notes`.

    Args:
        info: what `probe` found.
        utterances: by start; they may overlap. Those that become known little by little come from an iterator, which gives None where
            the next one is not known yet; each None is handed on in the place of a clip, and the iterator is asked again then.
        rule: sizes; the defaults where None.
        report: filled in while the clips are taken.
        sound_only: leave the pictures out; for sources with sound.

    Raises:
        SourceError: the file can't be opened, or no container holds its streams.
        UsageError: the utterances are not in order.
    """
    if isinstance(utterances, Sequence):
        for left, right in pairwise([None, *utterances]):
            _check(left, right)
    cutter = _Cutter(info, iter(utterances), rule or ClipRule(), report if report is not None else CutReport())
    return cutter.clips(sound_only=sound_only)


def _check(before: Utterance | None, utterance: Utterance) -> None:
    if before is not None and before.start_s > utterance.start_s:
        raise UsageError("utterances must be in the order of their start_s; sort them")
    if not utterance.end_s > utterance.start_s:
        raise UsageError("every utterance must end after it starts; leave out those without length")


class _Cutter:
    """One pass over a source."""

    def __init__(
        self, info: SourceInfo, utterances: Iterator[Utterance | None], rule: ClipRule, report: CutReport
    ) -> None:
        self._info = info
        self._coming = utterances
        self._utterances: list[Utterance] = []
        """Those that are known; all of them once `_are_all_known`."""
        self._are_all_known = False
        self._rule = rule
        self._report = report
        self._read = ReadReport()
        self._window = PacketWindow(pre_roll_s=rule.pre_roll_s, post_roll_s=rule.post_roll_s)
        self._clock_s: dict[str, float] = {}
        self._first = 0  # the open clip holds utterances[first:last]
        self._last = 0
        self._is_done = False
        self._delivered_s = -math.inf
        self._num_late = 0

    def clips(self, *, sound_only: bool = False) -> Iterator[Clip | None]:
        name = str(self._info.path)
        with open_media(self._info.path) as container:
            chosen = choose_streams(container, name)
            if sound_only:
                chosen = replace(chosen, video=None)
            writer = ClipWriter(name, container.format.name, chosen)
            self._clock_s = {"video" if stream.type == "video" else "audio": -math.inf for stream in chosen.all()}
            yield from self._await(0)
            if self._utterances:
                self._window.trim(self._utterances[0].start_s)
                for coded in read_packets(container, chosen, self._read):
                    self._clock_s[coded.kind] = max(self._clock_s[coded.kind], coded.decode_s)
                    self._num_late += coded.start_s < self._delivered_s
                    self._window.add(coded)
                    if self._window.num_video_bytes > self._rule.limit_bytes:
                        self._window.drop_pictures()
                    yield from self._closed(writer)
                    if self._are_all_known and self._first == len(self._utterances):
                        break
                else:
                    self._is_done = True
                    yield from self._closed(writer)
                    self._note_shortfall()
        if writer.num_refused:
            self._report.notes += (f"{writer.num_refused} damaged packets could not be copied and were left out",)
        if self._num_late:
            self._report.notes += (
                f"{self._num_late} packets lie more than {self._rule.interleave_s:g} s behind the other stream in the "
                "file and came too late for their clip; raise interleave_s",
            )
        self._report.notes += (*self._read.notes(), *self._window.notes(self._rule.limit_bytes))

    def _await(self, index: int) -> Iterator[None]:
        """Comes to its end when the utterance of this index is known, or that there is none; until then gives None."""
        while not self._are_all_known and index >= len(self._utterances):
            try:
                utterance = next(self._coming)
            except StopIteration:
                self._are_all_known = True
            else:
                if utterance is None:
                    yield None
                else:
                    _check(self._utterances[-1] if self._utterances else None, utterance)
                    self._utterances.append(utterance)

    def _closed(self, writer: ClipWriter) -> Iterator[Clip | None]:
        """The clips that are complete by now."""
        while self._last < len(self._utterances) and self._is_complete(self._utterances[self._last]):
            self._last += 1
            yield from self._await(self._last)
            if self._must_close():
                clip = self._clip(writer)
                self._first = self._last
                if self._first < len(self._utterances):
                    self._window.trim(self._utterances[self._first].start_s)
                if clip is not None:
                    yield clip

    def _is_complete(self, utterance: Utterance) -> bool:
        """Whether all that the utterance needs has been read, or can't be waited for any longer."""
        if self._is_done:
            return True
        needs_s = {"video": utterance.end_s, "audio": utterance.end_s + self._rule.post_roll_s}
        lead_s = max(self._clock_s.values()) - self._rule.interleave_s
        return all(clock_s >= needs_s[kind] or lead_s >= needs_s[kind] for kind, clock_s in self._clock_s.items())

    def _must_close(self) -> bool:
        if self._last == len(self._utterances):
            return True
        rule, following = self._rule, self._utterances[self._last]
        start_s, end_s = self._utterances[self._first].start_s, self._end_s()
        length_s, longer_s = end_s - start_s, max(following.end_s, end_s) - start_s
        num_bytes = self._window.num_bytes(start_s, end_s)
        expected_bytes = num_bytes * longer_s / length_s
        if following.start_s - end_s > rule.interleave_s or longer_s > rule.max_length_s:
            return True
        target_length_s = min(rule.first_length_s * 2 ** min(self._report.num_clips, 30), rule.target_length_s)
        if length_s < target_length_s and expected_bytes <= rule.target_bytes:
            return False
        return self._window.has_later_key(start_s, following.start_s) or expected_bytes > rule.limit_bytes

    def _end_s(self) -> float:
        return max(utterance.end_s for utterance in self._utterances[self._first : self._last])

    def _clip(self, writer: ClipWriter) -> Clip | None:
        held: list[Utterance] = []
        for utterance in self._utterances[self._first : self._last]:
            if self._window.has_media(utterance.start_s, utterance.end_s):
                held.append(utterance)
            else:
                self._report.losses += (LostStretch(utterance=utterance, reason=self._reason(utterance)),)
        if not held:
            return None
        start_s, end_s = held[0].start_s, max(utterance.end_s for utterance in held)
        pictures, sound = self._window.select(start_s, end_s)
        data, container = writer.write(list(heapq.merge(pictures, sound, key=lambda coded: coded.decode_s)))
        clip = Clip(
            index=self._report.num_clips,
            data=data,
            container=container,
            utterances=tuple(held),
            start_s=start_s,
            end_s=end_s,
        )
        self._delivered_s = max(self._delivered_s, end_s)
        self._report.num_clips += 1
        self._report.num_bytes += len(data)
        return clip

    def _reason(self, utterance: Utterance) -> str:
        if self._read.failure:
            return self._read.failure
        if self._is_done and self._window.end_s <= utterance.start_s:
            return f"the file's data end at {max(self._window.end_s, 0.0):.2f} s"
        return "the file holds neither pictures nor sound for this time"

    def _note_shortfall(self) -> None:
        end_s = self._window.end_s
        short = [each for each in self._utterances if each.start_s < end_s < each.end_s - SHORTFALL_S]
        self._report.notes += tuple(
            f"the file's data end at {end_s:.2f} s, within [{each.start_s:.2f}, {each.end_s:.2f}) s" for each in short
        )
        beyond = [each for each in self._utterances if each.start_s >= end_s]
        if beyond:
            last_s = max(each.end_s for each in beyond)
            self._report.notes += (
                f"the file's data end at {end_s:.2f} s; nothing follows for {len(beyond)} utterances up to {last_s:.2f} s",
            )
