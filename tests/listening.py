"""What a server hears in a film, stretch by stretch, without anything being scored."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fv2es import Client
from fv2es.planning import Plan, outline
from fv2es.result import UtteranceSource
from fv2es.speech import SPEECH_MODEL
from fv2es.utterances import Utterance
from fv2es.words import Word
from fv2es_pipelines.audio import read_sound
from fv2es_pipelines.clip import open_clip


@dataclass(frozen=True, kw_only=True, slots=True)
class Listening:
    """What was heard in a film, and what it comes to."""

    words: tuple[Word, ...]
    utterances: tuple[Utterance, ...]
    notes: tuple[str, ...]
    source: UtteranceSource


def listen(client: Client, film: Path, **rule: object) -> Listening:
    """All that a server hears; `rule` changes the client's SpeechRule."""
    planned = Plan(outline(film, None, client.utterance_rule, replace(client.speech_rule, **rule)))
    lane, words = planned.recognition, []
    assert lane is not None
    told = lane.news

    def news() -> list:
        heard = told()
        words.extend(word for each in heard for word in each.words)
        return heard

    lane.news = news
    while (clip := lane.next_clip()) is not None:
        answer = client._transport.infer(SPEECH_MODEL, lane.encode(clip), timeout_s=300).result()
        lane.add_answer(clip, lane.decode(answer, address=client.address))
    utterances = tuple(planned.utterances())
    assert None not in utterances
    return Listening(words=tuple(words), utterances=utterances, notes=planned.notes, source=planned.utterance_source)


def decoded(film: Path, end_s: float) -> np.ndarray:
    """The first seconds of a film's sound, float32 [T] at 16 kHz."""
    with open_clip(film.read_bytes()) as clip:
        (wave,) = read_sound(clip, np.array([[0.0, end_s]])).waves
    return wave
