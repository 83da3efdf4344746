"""ONNX Runtime in a plain loop: what a competent user writes in an afternoon with the exported graphs.

Every picture is decoded with PyAV's defaults, the wanted ones become RGB, the face detector sees each at full size with the whole
pyramid; then utterance after utterance through the graphs with default options. Nothing is kept but what is needed.
"""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.answer import Answer, Box, Clock, Sample
from benchmarks.peers.media import Rgb, all_frames, check_streams, rgb_of, sampled, shown_times, whole_sound
from benchmarks.peers.mtcnn import Cascade, SumsShrinker, crop
from benchmarks.peers.nets import Nets, score
from benchmarks.peers.plan import Span
from benchmarks.peers.spectrum import pieces_of


def analyse(
    film: Path, spans: tuple[Span, ...], nets: Nets, *, boxes: Mapping[int, Box | None] | None = None
) -> Answer:
    """All utterances of a film.

    Args:
        film: with pictures or sound.
        spans: its utterances.
        nets: with which.
        boxes: faces of the sampled pictures that are known already, by time in whole milliseconds; None: they are looked for.

    Raises:
        FilmUnusable: it can't be read.
    """
    clock = Clock()
    check_streams(film)
    with clock.step("decode"):
        times_s, end_s = shown_times(film)
    wanted = [sampled(span, times_s, end_s) for span in spans]
    wanted_ms = {milliseconds(times_s[place]) for places in wanted for place in places}
    cascade = Cascade(nets.detector, SumsShrinker)
    seen: dict[int, tuple[Box | None, Rgb | None]] = {}
    frames = all_frames(film)
    while True:
        with clock.step("decode"):
            frame, time_s = next(frames, (None, 0.0))
            rgb = rgb_of(frame) if frame is not None and milliseconds(time_s) in wanted_ms else None
        if frame is None:
            break
        if rgb is None:
            continue
        with clock.step("faces"):
            box = cascade(rgb) if boxes is None else boxes.get(milliseconds(time_s))
            seen[milliseconds(time_s)] = (box, None if box is None else crop(rgb, box))
    with clock.step("sound"):
        sound = whole_sound(film)
    utterances = []
    for span, places in zip(spans, wanted, strict=True):
        looks = [
            (time_s, *seen[milliseconds(time_s)])
            for time_s in map(float, times_s[places])
            if milliseconds(time_s) in seen
        ]
        with clock.step("sound"):
            pieces = None if sound is None else pieces_of(sound.of(span))
        utterances.append(
            score(
                nets,
                clock,
                span,
                faces=[face for _, _, face in looks if face is not None],
                pieces=pieces,
                samples=[Sample(time_s=time_s, box_px=box) for time_s, box, _ in looks],
            )
        )
    return Answer(utterances=tuple(utterances), steps=clock.steps)


def milliseconds(time_s: float) -> int:
    """A time to the nearest millisecond, which no two pictures share."""
    return round(time_s * 1000)
