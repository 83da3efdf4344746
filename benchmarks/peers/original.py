"""The original's algorithm in eager PyTorch, written from what is known of it, not from its code.

What costs is as in the original: the whole film is read into memory as RGB, the face detector sees each sampled picture at full
size with the whole pyramid and one picture at a time, utterances are scored one by one, words are padded to 100 tokens. What is
wrong in it is not: colours are red first, pictures are chosen by timestamps, what is missing is masked out. So its numbers can be
compared. The nets are in the form in which they are served (batch norms folded), which is never slower than the published one.
"""

from pathlib import Path

import numpy as np

from benchmarks.peers.answer import Answer, Clock, Sample
from benchmarks.peers.media import check_streams, sampled, whole_sound, whole_video
from benchmarks.peers.mtcnn import Cascade, TorchShrinker, crop
from benchmarks.peers.nets import Nets, score
from benchmarks.peers.plan import Span
from benchmarks.peers.spectrum import pieces_of


def analyse(film: Path, spans: tuple[Span, ...], nets: Nets) -> Answer:
    """All utterances of a film.

    Raises:
        FilmUnusable: it can't be read.
        TooLittleMemory: its pictures don't fit into memory.
    """
    clock = Clock()
    check_streams(film)
    with clock.step("decode"):
        video = whole_video(film)
    with clock.step("sound"):
        sound = whole_sound(film)
    detect = Cascade(nets.detector, TorchShrinker)
    utterances = []
    for span in spans:
        faces, samples = [], []
        with clock.step("faces"):
            if video is not None:
                for place in sampled(span, video.times_s, video.end_s):
                    box = detect(video.pictures[place])
                    samples.append(Sample(time_s=float(video.times_s[place]), box_px=box))
                    if box is not None:
                        faces.append(crop(video.pictures[place], box))
        with clock.step("sound"):
            pieces = None if sound is None else pieces_of(sound.of(span))
        utterances.append(score(nets, clock, span, faces=faces, pieces=pieces, samples=samples))
    return Answer(utterances=tuple(utterances), steps=clock.steps)


def warm_up(nets: Nets) -> None:
    """Run every net once, so that what is set up at its first use is not measured."""
    Cascade(nets.detector, TorchShrinker)(np.zeros((64, 64, 3), np.uint8))
    faces = [np.zeros((48, 48, 3), np.uint8)]
    pieces = pieces_of(np.zeros(1600, np.float32))
    span = Span(start_s=0.0, end_s=0.1, text="warm")
    score(nets, Clock(), span, faces=faces, pieces=pieces, samples=())
