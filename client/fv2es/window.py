"""The packets that clips still to be cut may need."""

import math
from collections import deque
from itertools import islice

from fv2es.demux import Coded

PICTURE_STAYS_S = 10.0
"""A picture counts as shown for this long where no other follows, but not past the end of the file's data."""


class PacketWindow:
    """A stretch of both streams that grows at its end and is trimmed at its start. Times in seconds."""

    def __init__(self, *, pre_roll_s: float, post_roll_s: float) -> None:
        self.num_video_bytes = 0
        self.num_breaks = 0
        """How often pictures were forgotten that nobody took out: those held now begin with a key picture."""
        self.end_s = -math.inf
        """End of the last packet that was ever added."""
        self._pre_roll_s = pre_roll_s
        self._post_roll_s = post_roll_s
        self._needed_s = -math.inf
        self._video: deque[Coded] = deque()
        self._audio: deque[Coded] = deque()
        self._is_waiting_for_key = False
        self._dropped_s: list[tuple[float, float]] = []

    def add(self, coded: Coded) -> None:
        """Take in the next packet of its stream."""
        self.end_s = max(self.end_s, coded.end_s)
        if coded.kind == "audio":
            self._audio.append(coded)
            self._trim_audio()
            return
        if self._is_waiting_for_key:
            if not coded.is_key:
                self._dropped_s[-1] = (self._dropped_s[-1][0], max(self._dropped_s[-1][1], coded.end_s))
                return
            self._is_waiting_for_key = False
        if coded.is_key and coded.start_s <= self._needed_s:
            self._video.clear()
            self.num_video_bytes = 0
            self.num_breaks += 1
        self._video.append(coded)
        self.num_video_bytes += coded.num_bytes

    def trim(self, start_s: float) -> None:
        """Forget what no clip from `start_s` on needs."""
        self._needed_s = start_s
        first = self._first_picture(start_s)
        self.num_breaks += first > 0
        for _ in range(first):
            self.num_video_bytes -= self._video.popleft().num_bytes
        self._trim_audio()

    def drop_pictures(self) -> None:
        """Give up all pictures held and those up to the next key picture: there are too many bytes."""
        self._dropped_s.append((self._video[0].start_s, max(coded.end_s for coded in self._video)))
        self._video.clear()
        self.num_video_bytes = 0
        self.num_breaks += 1
        self._is_waiting_for_key = True

    @property
    def num_pictures(self) -> int:
        """Pictures that are held."""
        return len(self._video)

    def pop_picture(self) -> Coded | None:
        """Take out the first picture that is held, in the order of decoding; None where there is none."""
        if not self._video:
            return None
        coded = self._video.popleft()
        self.num_video_bytes -= coded.num_bytes
        return coded

    def lead(self, start_s: float) -> tuple[float, int] | None:
        """Seconds and bytes of pictures that a clip from `start_s` on holds for its first one's sake; None without a key picture for it."""
        first = self._first_picture(start_s)
        if not self._video or not self._is_entry(self._video[first], start_s):
            return None
        before = (coded.num_bytes for coded in islice(self._video, first, None) if coded.start_s < start_s)
        return start_s - self._video[first].start_s, sum(before)

    def num_pictures_after(self, end_s: float) -> int:
        """Pictures held that are decoded after all that is shown before `end_s`."""
        found = (at for at, coded in enumerate(reversed(self._video)) if coded.start_s < end_s)
        return next(found, len(self._video))

    def select(self, start_s: float, end_s: float) -> tuple[list[Coded], list[Coded]]:
        """The pictures and the sound that are needed to decode [start_s, end_s), each in the order of decoding.

        Pictures begin with a key picture, at or before `start_s` where there is one, without those that precede it in
        time (they build on pictures before the key); they end with the last one presented before `end_s`.
        """
        pictures = list(self._video)[self._first_picture(start_s) :]
        while pictures and pictures[-1].start_s >= end_s:
            pictures.pop()
        if pictures:
            key_s = pictures[0].start_s
            pictures = [coded for coded in pictures if coded.start_s >= key_s]
        sound = [
            coded
            for coded in self._audio
            if coded.end_s > start_s - self._pre_roll_s and coded.start_s < end_s + self._post_roll_s
        ]
        return pictures, sound

    def num_bytes(self, start_s: float, end_s: float) -> int:
        """Size of what `select` gives."""
        return sum(coded.num_bytes for part in self.select(start_s, end_s) for coded in part)

    def has_later_key(self, start_s: float, next_s: float) -> bool:
        """Whether a clip from `next_s` on would begin at a later key picture than one from `start_s` on."""
        return not self._video or self._first_picture(next_s) > self._first_picture(start_s)

    def has_media(self, start_s: float, end_s: float) -> bool:
        """Whether anything is to be seen or heard within [start_s, end_s)."""
        return self.has_sound(start_s, end_s) or any(
            coded.start_s < end_s
            and (coded.start_s >= start_s or min(coded.start_s + PICTURE_STAYS_S, self.end_s) > start_s)
            for coded in self._video
        )

    def has_sound(self, start_s: float, end_s: float) -> bool:
        """Whether anything is to be heard within [start_s, end_s)."""
        return any(
            coded.start_s < end_s and (coded.start_s >= start_s or coded.end_s > start_s) for coded in self._audio
        )

    def notes(self, limit_bytes: int) -> tuple[str, ...]:
        """One sentence for each stretch of pictures that was given up."""
        return tuple(
            f"pictures in [{start_s:.2f}, {end_s:.2f}) s were left out: more than {limit_bytes} bytes from one key "
            "picture on; encode the file with key pictures more often, or raise limit_bytes"
            for start_s, end_s in self._dropped_s
        )

    def _first_picture(self, start_s: float) -> int:
        """Position of the last key picture at or before `start_s`; 0 where there is none."""
        found = (at for at in range(len(self._video) - 1, -1, -1) if self._is_entry(self._video[at], start_s))
        return next(found, 0)

    @staticmethod
    def _is_entry(coded: Coded, start_s: float) -> bool:
        return coded.is_key and coded.start_s <= start_s

    def _trim_audio(self) -> None:
        limit_s = self._needed_s - self._pre_roll_s
        while self._audio and self._audio[0].end_s <= limit_s:
            self._audio.popleft()
