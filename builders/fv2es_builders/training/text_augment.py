"""Written words made to look like what speech recognition writes."""

import random
import re
from typing import Final

_PLACEHOLDER: Final = re.compile(r"\[(NAME|RELIGION)\]")
"""GoEmotions hides names and religions behind these."""
_NAMES: Final = ("John", "Mary", "David", "Anna", "Michael", "Laura", "Tom", "Emma", "Chris", "Sarah", "Kevin", "Julia")
_RELIGIONS: Final = ("Christian", "Muslim", "Jewish", "Hindu", "Buddhist")
_FILLERS: Final = ("um", "uh", "well", "you know", "like", "I mean")
_PUNCTUATION: Final = re.compile(r"[^\w\s'\u2019]+")
_SPACES: Final = re.compile(r"\s+")

SPOKEN_SHARE: Final = 0.4
"""Share of the texts that are written as recognised speech."""
FILLER_SHARE: Final = 0.15
"""Share of those with a filler word."""
LOST_SHARE: Final = 0.04
"""Probability that recognition loses a word."""


def augmented(text: str, chance: random.Random) -> str:
    """The text with names in place of placeholders; at times as recognised speech."""
    text = _PLACEHOLDER.sub(lambda found: _stand_in(found[1], chance) if chance.random() < 0.7 else found[0], text)
    if chance.random() >= SPOKEN_SHARE:
        return text
    words = [word for word in spoken(text).split() if chance.random() >= LOST_SHARE]
    if words and chance.random() < FILLER_SHARE:
        words.insert(chance.randrange(len(words) + 1), chance.choice(_FILLERS))
    return " ".join(words) or text


def spoken(text: str) -> str:
    """Lower case, without punctuation and signs; the text itself where nothing is left."""
    bare = _SPACES.sub(" ", _PUNCTUATION.sub(" ", _PLACEHOLDER.sub(" ", text))).strip().lower()
    return bare or text


def _stand_in(kind: str, chance: random.Random) -> str:
    return chance.choice(_NAMES if kind == "NAME" else _RELIGIONS)
