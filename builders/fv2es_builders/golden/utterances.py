"""Utterances made of the real input: other lengths, gains and brightness, mirrored faces, absent modalities, more words.

They are what engines in less than FP32 are made from and compared on. What is varied is said in each name.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from fv2es_builders.golden import Golden, load_golden
from fv2es_builders.utterances import Utterance

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_UTTERANCES: Final = 64
MAX_PIECES: Final = 5

GAINS: Final = (1.0, 0.25, 4.0, 0.05)
"""Of the sound's amplitude: from a whisper far away to a loud recording."""

BRIGHTNESS: Final = (1.0, 0.6, 1.3)
"""Of pixel values, which stay within 0..255."""

WORDS: Final = (
    "I can't believe you did this for me, thank you!",
    "No. I said no, and I mean it.",
    "Well, it is what it is.",
    "They told us the test was cancelled, so we went home.",
    "Don't you dare talk to me like that again.",
    "My grandmother died last week and I miss her so much.",
    "What? When did that happen?",
    "Ugh, there is a hair in my soup.",
    "I heard a noise downstairs and I am too scared to look.",
    "The meeting starts at nine, bring the report.",
    "We won! We actually won the whole thing!",
    "I don't know what to do any more.",
    "um so yeah i was like okay fine whatever",
    "HAPPY BIRTHDAY!!!",
    "It smells awful in here, open a window.",
    "He promised he would come, and he never came.",
    "oh my god oh my god you are kidding",
    "The train to Hamburg leaves from platform four at ten past six, and then you change in Hanover for the coast.",
    "That was a really kind thing to say.",
    "Why does this always happen to me?",
    "yes",
    "If he finds out, we are in serious trouble.",
    "I hate waiting, I hate this queue, and I hate this shop.",
    "Look at that little dog, isn't it lovely?",
    "I never expected to see you here of all places.",
    "Fine.",
    "The doctor says that the results are back and that there is nothing to worry about.",
    "Please stop, you're hurting him.",
    "We have been through a lot together, and I would do it all again.",
    "This is disgusting, who would do such a thing?",
)
"""Lines as people say them, and as recognisers write them down."""


def golden_utterances() -> Sequence[Utterance]:
    """`NUM_UTTERANCES` utterances, the same at each call; the first three are the real ones as they are."""
    golden = load_golden()
    rng = np.random.default_rng(0)
    return [*_as_they_are(golden), *(_varied(golden, rng, number) for number in range(NUM_UTTERANCES - 3))]


def _as_they_are(golden: Golden) -> list[Utterance]:
    borders = np.cumsum(golden.piece_counts)[:-1]
    per_utterance = len(golden.faces) // len(golden.words)
    return [
        Utterance(
            name=f"golden {row}", faces=golden.faces[row * per_utterance :][:per_utterance], pieces=pieces, words=words
        )
        for row, (pieces, words) in enumerate(zip(np.split(golden.pieces, borders), golden.words, strict=True))
    ]


def _varied(golden: Golden, rng: np.random.Generator, number: int) -> Utterance:
    gain, light = float(rng.choice(GAINS)), float(rng.choice(BRIGHTNESS))
    mirrored = bool(rng.integers(2))
    chosen = rng.integers(len(golden.faces), size=rng.integers(1, 5))
    first, length = int(rng.integers(len(golden.pieces))), int(rng.integers(1, MAX_PIECES + 1))
    words = WORDS[number % len(WORDS)]
    # One in eight lacks faces, one in eight sound, one in eight words.
    lacks = ("faces", "sound", "words")[number % 8] if number % 8 < 3 else "nothing"
    faces: NDArray[np.uint8] = np.clip(golden.faces[chosen] * light, 0, 255).astype(np.uint8)
    faces = faces[:, :, ::-1] if mirrored else faces
    pieces = golden.pieces[first : first + length] * np.float32(gain**2)
    return Utterance(
        name=f"varied {number} (gain {gain:g}, light {light:g}{', mirrored' if mirrored else ''}, lacks {lacks})",
        faces=np.ascontiguousarray(faces[:0] if lacks == "faces" else faces),
        pieces=pieces[:0] if lacks == "sound" else pieces,
        words="" if lacks == "words" else words,
    )
