"""What will be asked about one source: known before a server is asked, or step by step while its speech is recognised."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fv2es.errors import TranscriptError
from fv2es.result import UtteranceSource
from fv2es.source import SourceInfo, probe
from fv2es.speech import Hearing, Recognition, SpeechRule
from fv2es.subtitles import read_subtitles
from fv2es.transcript import read_transcript
from fv2es.utterances import Planner, Utterance, UtterancePlan, UtteranceRule, plan_utterances


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """What is known of a source before a server is asked: all but recognised words."""

    info: SourceInfo
    rule: UtteranceRule
    speech_rule: SpeechRule
    utterances: tuple[Utterance, ...]
    """All of them, where `source` says where they come from."""
    notes: tuple[str, ...]
    source: UtteranceSource | None
    """Where the utterances come from; None: from speech, if the server recognises any."""
    reason: str
    """Why there are no words from elsewhere, for people."""


def outline(source: Path | str, transcript: Path | str | None, rule: UtteranceRule, speech_rule: SpeechRule) -> Outline:
    """Look at the source, its subtitles and its transcript; decodes nothing.

    Raises:
        SourceError: the source can't be used.
        TranscriptError: the transcript can't be used.
    """
    info = probe(source)

    def drawn(
        planned: UtterancePlan | None, notes: tuple[str, ...], origin: UtteranceSource | None, reason: str = ""
    ) -> Outline:
        return Outline(
            info=info,
            rule=rule,
            speech_rule=speech_rule,
            utterances=planned.utterances if planned else (),
            notes=(*notes, *(planned.notes if planned else info.notes)),
            source=origin,
            reason=reason,
        )

    if transcript is not None:
        read = read_transcript(transcript)
        origin = UtteranceSource(kind="transcript", reason=f"the transcript {transcript} was given")
        return drawn(plan_utterances(info, read.cues, rule), read.notes, origin)
    reasons = ["no transcript was given"]
    notes: tuple[str, ...] = ()
    if speech_rule.subtitles:
        subtitles = read_subtitles(info, speech_rule.language)
        notes = subtitles.notes
        try:
            if subtitles.cues:
                planned = plan_utterances(info, subtitles.cues, rule)
                origin = UtteranceSource(kind="subtitles", reason=f"{reasons[0]}, and the file has {subtitles.stream}")
                return drawn(planned, notes, origin)
            reasons.append("the file has no text subtitles")
        except TranscriptError as error:
            reasons.append(f"its {subtitles.stream} can't be used: {error}")
    else:
        reasons.append("subtitles were not asked for")
    if info.audio is None:
        reasons.append("it has no sound")
    elif not speech_rule.recognise:
        reasons.append("speech recognition was not asked for")
    else:
        return drawn(None, notes, None, _sentence(reasons))
    return drawn(plan_utterances(info, None, rule), notes, UtteranceSource(kind="windows", reason=_sentence(reasons)))


def _sentence(reasons: Sequence[str]) -> str:
    return ", ".join([*reasons[:-1], f"and {reasons[-1]}"]) if len(reasons) > 1 else "".join(reasons)


class Plan:
    """The utterances of one source, and where they come from.

    Args:
        outlined: what is known without a server.
        missing: why nobody can listen, where `outlined.source` is None; "": the server can.
    """

    def __init__(self, outlined: Outline, *, missing: str = "") -> None:
        self.info = outlined.info
        self._outlined = outlined
        self._missing = missing
        self.recognition: Recognition | None = None
        """What has to be asked before all utterances are known; None: nothing."""
        self._known = list(outlined.utterances)
        if outlined.source is None and missing:
            self._known = list(plan_utterances(outlined.info, None, outlined.rule).utterances)
        elif outlined.source is None:
            self.recognition = Recognition(outlined.info, outlined.speech_rule)
        self._planner = Planner(outlined.info, outlined.rule)

    @property
    def num_known(self) -> int:
        """How many utterances are known so far."""
        return len(self._known)

    @property
    def is_complete(self) -> bool:
        """Whether all utterances are known."""
        return self.recognition is None or self.recognition.is_over

    def utterances(self) -> Iterator[Utterance | None]:
        """All utterances in order; None each time when recognition must go on before the next one is known."""
        given = 0
        while True:
            self._plan()
            while given < len(self._known):
                yield self._known[given]
                given += 1
            if self.is_complete:
                return
            yield None

    def _plan(self) -> None:
        if self.recognition is None:
            return
        news = self.recognition.news()
        for place, heard in enumerate(news, start=1):
            is_all = self.recognition.is_over and place == len(news)
            self._known += self._planner.advance(heard, is_all=is_all)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was repaired or left out; once it is complete."""
        return (*self._outlined.notes, *(self.recognition.hearing().notes if self.recognition else ()))

    @property
    def utterance_source(self) -> UtteranceSource:
        """Where the utterances come from; once it is complete."""
        outlined = self._outlined
        if outlined.source is not None:
            return outlined.source
        hearing = self.recognition.hearing() if self.recognition else Hearing(missing=self._missing)
        if hearing.missing or not (hearing.num_words or hearing.has_voice):
            reason = f"{outlined.reason}; {hearing.missing or 'no voice was heard'}"
            return UtteranceSource(kind="windows", reason=reason)
        if hearing.num_words:
            what = f"speech was recognised by the model {hearing.model} (language: {hearing.language})"
        else:
            what = f"a voice was heard, and none of its words was understood by the model {hearing.model}"
        return UtteranceSource(kind="speech", reason=f"{outlined.reason}; {what}")
