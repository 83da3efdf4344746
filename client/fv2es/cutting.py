"""Clips: stretches of the source that can be decoded on their own, cut by copying packets in one pass."""

import heapq
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import overload

from fv2es.demux import ChosenStreams, ReadReport, choose_streams, open_media, read_packets
from fv2es.errors import UsageError
from fv2es.remux import ClipWriter
from fv2es.source import SourceInfo
from fv2es.stills import MOST_REORDERED, PICTURE_STEP_S, Decoding, Keeping, KeptStills, looked_at
from fv2es.utterances import Utterance
from fv2es.window import PacketWindow

MOST_PICTURES = 10_000
"""Pictures held above this are decoded where a key picture lies too far back, however small they are: a packet takes about 1 kB beside its bytes."""
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
    max_lead_s: float = 30.0
    """Most pictures, in seconds, that a clip holds for the sake of its first one. Where the key picture lies further back, the stretch is
    decoded by the client, see `fv2es.stills`; >= 0."""
    target_bytes: int = 5_000_000
    """A clip takes on no further utterance that would make it larger than this; > 0."""
    max_bytes: int = 64_000_000
    """The same bound as max_length_s in bytes, and as max_lead_s; >= target_bytes."""
    limit_bytes: int = 256_000_000
    """Most bytes of pictures that are held for one utterance; beyond, they are decoded by the client, and left out and named where they take
    more without loss; >= max_bytes. The server's own limit on a clip is 268 MB."""
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
        if not 0 < self.target_bytes <= self.max_bytes <= self.limit_bytes:
            raise UsageError(
                f"target_bytes={self.target_bytes}, max_bytes={self.max_bytes} and limit_bytes={self.limit_bytes} must satisfy "
                "0 < target_bytes <= max_bytes <= limit_bytes"
            )
        if not self.max_lead_s >= 0:
            raise UsageError(f"max_lead_s={self.max_lead_s:g} s must be at least 0")
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
) -> Generator[Clip, None, None]: ...
@overload
def cut(
    info: SourceInfo,
    utterances: Iterator[Utterance | None],
    rule: ClipRule | None = None,
    report: CutReport | None = None,
    *,
    sound_only: bool = False,
) -> Generator[Clip | None, None, None]: ...
def cut(
    info: SourceInfo,
    utterances: Iterable[Utterance | None],
    rule: ClipRule | None = None,
    report: CutReport | None = None,
    *,
    sound_only: bool = False,
) -> Generator[Clip | None, None, None]:
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
        self._chosen: ChosenStreams
        self._decoding: Decoding | None = None
        """Where the key picture lies too far back for copying."""
        self._keeping: Keeping | None = None
        """Pictures of the open clip that were decoded already."""
        self._kept_s: list[float] = []
        """The times that they serve."""
        self._still_bytes = 0
        """Of one picture that was kept without loss, on average."""
        self._decoded_s: list[tuple[float, float]] = []
        self._unkept_s: list[tuple[float, float]] = []
        self._num_misses = 0

    def clips(self, *, sound_only: bool = False) -> Generator[Clip | None, None, None]:
        name = str(self._info.path)
        with open_media(self._info.path) as container:
            chosen = choose_streams(container, name)
            if sound_only:
                chosen = replace(chosen, video=None)
            self._chosen = chosen
            writer = ClipWriter(name, container.format.name, chosen)
            self._clock_s = {"video" if stream.type == "video" else "audio": -math.inf for stream in chosen.all()}
            yield from self._await(0)
            if self._utterances:
                self._window.trim(self._utterances[0].start_s)
                for coded in read_packets(container, chosen, self._read):
                    self._clock_s[coded.kind] = max(self._clock_s[coded.kind], coded.decode_s)
                    self._num_late += coded.start_s < self._delivered_s
                    self._window.add(coded)
                    self._make_room()
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
        self._end_decoding()
        self._report.notes += (*self._read.notes(), *self._window.notes(self._rule.limit_bytes), *self._still_notes())

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
        if not all(clock_s >= needs_s[kind] or lead_s >= needs_s[kind] for kind, clock_s in self._clock_s.items()):
            return False
        return (
            lead_s >= utterance.end_s
            or self._window.num_pictures_after(utterance.end_s) >= MOST_REORDERED
            or not self._must_decode(self._utterances[self._first].start_s)
        )

    def _must_close(self) -> bool:
        if self._last == len(self._utterances):
            return True
        rule, following = self._rule, self._utterances[self._last]
        start_s, end_s = self._utterances[self._first].start_s, self._end_s()
        length_s, longer_s = end_s - start_s, max(following.end_s, end_s) - start_s
        if self._must_decode(start_s):
            expected_bytes = longer_s / PICTURE_STEP_S * self._expected_still_bytes()
            if following.start_s < end_s:  # decoding goes forwards only
                return longer_s > rule.max_length_s or expected_bytes > rule.limit_bytes
            return longer_s > rule.target_length_s or expected_bytes > rule.target_bytes
        num_bytes = self._window.num_bytes(start_s, end_s)
        expected_bytes = num_bytes * longer_s / length_s
        if following.start_s - end_s > rule.interleave_s or longer_s > rule.max_length_s:
            return True
        target_length_s = min(rule.first_length_s * 2 ** min(self._report.num_clips, 30), rule.target_length_s)
        if length_s < target_length_s and expected_bytes <= rule.target_bytes:
            return False
        return self._window.has_later_key(start_s, following.start_s) or expected_bytes > rule.max_bytes

    def _must_decode(self, start_s: float) -> bool:
        """Whether the key picture for `start_s` lies too far back, or has been decoded and left behind already."""
        lead = self._window.lead(start_s)
        if lead is None:
            return self._decoding is not None
        return lead[0] > self._rule.max_lead_s or lead[1] > self._rule.max_bytes

    def _expected_still_bytes(self) -> float:
        video = self._info.video
        return self._still_bytes or (0.75 * video.width * video.height if video is not None else 0.0)

    def _end_decoding(self) -> None:
        if self._decoding is not None:
            self._num_misses += self._decoding.num_missed + self._decoding.num_errors
            self._decoding.close()
            self._decoding = None

    def _make_room(self) -> None:
        """Where much is held that can't be copied, decode ahead; where that frees too little, give pictures up."""
        window, rule = self._window, self._rule
        if window.num_video_bytes <= rule.max_bytes and window.num_pictures <= MOST_PICTURES:
            return
        if self._first < len(self._utterances) and (
            self._must_decode(self._utterances[self._first].start_s) or window.num_video_bytes > rule.limit_bytes
        ):
            self._decode_ahead()
        if window.num_video_bytes > rule.limit_bytes:
            window.drop_pictures()

    def _decode_ahead(self) -> None:
        """Decode what is held for the utterances that are known, as far as packets reach.

        Utterances to come may overlap them: what lies behind the start of the last one waits until there is no room.
        """
        known = self._utterances[self._first :]
        decoding, keeping = self._decoder()
        for time_s in looked_at(known):
            if self._kept_s and time_s <= self._kept_s[-1]:
                continue
            if time_s > known[-1].start_s and self._window.num_video_bytes <= self._rule.limit_bytes:
                return
            if not decoding.reach(time_s, is_last=False):
                return
            self._keep(time_s, decoding, keeping)

    def _decoder(self) -> tuple[Decoding, Keeping]:
        stream = self._chosen.video
        if stream is None:
            raise AssertionError("no pictures are held where there is no stream of them")
        if self._decoding is None:
            self._decoding = Decoding(stream, self._window)
        if self._keeping is None:
            rotation_deg = self._info.video.rotation_deg if self._info.video is not None else 0
            self._keeping = Keeping(rotation_deg=rotation_deg, limit_bytes=self._rule.limit_bytes)
        return self._decoding, self._keeping

    def _keep(self, time_s: float, decoding: Decoding, keeping: Keeping) -> None:
        still = decoding.at(time_s, is_last=self._is_done)
        if still is not None:
            keeping.add(still)
        self._kept_s.append(time_s)

    def _stills(self, utterances: Sequence[Utterance]) -> KeptStills | None:
        """The pictures that utterances are looked at with, decoded."""
        if self._chosen.video is None:
            return None
        decoding, keeping = self._decoder()
        for time_s in looked_at(utterances):
            if not self._kept_s or time_s > self._kept_s[-1]:
                self._keep(time_s, decoding, keeping)
            else:
                decoding.num_missed += time_s not in self._kept_s
        start_s, end_s = utterances[0].start_s, max(each.end_s for each in utterances)
        found = keeping.finish(end_s)
        if found is not None:
            self._still_bytes = keeping.num_bytes // keeping.num_pictures
            self._decoded_s.append((start_s, end_s))
        elif keeping.is_refused:
            self._unkept_s.append((start_s, end_s))
        return found

    def _still_notes(self) -> Iterator[str]:
        if self._decoded_s:
            yield (
                f"in [{self._decoded_s[0][0]:.2f}, {self._decoded_s[-1][1]:.2f}) s key pictures lie more than {self._rule.max_lead_s:g} s or "
                f"{self._rule.max_bytes} bytes before utterances, or these hold more than {self._rule.limit_bytes} bytes: {len(self._decoded_s)} "
                "clips were decoded here and hold the sampled pictures without loss"
            )
        if self._num_misses:
            yield f"{self._num_misses} pictures of them could not be decoded, or lie in utterances that overlap too many others"
        if self._unkept_s:
            yield (
                f"pictures in [{self._unkept_s[0][0]:.2f}, {self._unkept_s[-1][1]:.2f}) s were left out of {len(self._unkept_s)} clips: without loss "
                f"they take more than {self._rule.limit_bytes} bytes, or have a form that FFV1 does not keep; encode the file with key pictures "
                "more often: ffmpeg -i IN -g 250 OUT.mp4"
            )

    def _end_s(self) -> float:
        return max(utterance.end_s for utterance in self._utterances[self._first : self._last])

    def _clip(self, writer: ClipWriter) -> Clip | None:
        held: list[Utterance] = []
        utterances = self._utterances[self._first : self._last]
        stills: KeptStills | None = None
        must_decode = self._must_decode(utterances[0].start_s)
        if must_decode:
            stills = self._stills(utterances)
        else:
            self._end_decoding()
        self._keeping, self._kept_s = None, []
        has_media = self._window.has_sound if must_decode and stills is None else self._window.has_media
        for utterance in utterances:
            if has_media(utterance.start_s, utterance.end_s) or stills is not None:
                held.append(utterance)
            else:
                self._report.losses += (LostStretch(utterance=utterance, reason=self._reason(utterance)),)
        if not held:
            return None
        start_s, end_s = held[0].start_s, max(utterance.end_s for utterance in held)
        pictures, sound = self._window.select(start_s, end_s)
        if must_decode:
            pictures = stills.coded if stills is not None else []
        if stills is not None:
            writer = ClipWriter(str(self._info.path), "matroska", replace(self._chosen, video=stills.stream))
        data, container = writer.write(list(heapq.merge(pictures, sound, key=lambda coded: coded.decode_s)))
        if stills is not None:
            stills.container.close()
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
        if self._unkept_s and self._unkept_s[-1][0] <= utterance.start_s < self._unkept_s[-1][1]:
            return "no key picture is near, its pictures could not be kept without loss, and it has no sound"
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
