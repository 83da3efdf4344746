"""From a clip and its utterances to face pictures, flat and indexed: what the visual branch takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fv2es_pipelines.area import area_resize
from fv2es_pipelines.boxes import face_region
from fv2es_pipelines.clip import ClipBytes, open_clip
from fv2es_pipelines.constants import FACE_SIZE_PX, FRAME_STEP_S
from fv2es_pipelines.limits import MediaLimits, checked_utterances
from fv2es_pipelines.mtcnn import Detector, Face
from fv2es_pipelines.picture import Picture, Rgb
from fv2es_pipelines.sampling import sample_times
from fv2es_pipelines.video import ChosenPicture, PictureReader

_MAX_CHUNK_BYTES = 6_000_000
"""Decoded pictures that wait for the detector: two of 1080p, 18 of 360p. It takes no more of them at once where it looks closely."""
_MAX_CHUNK_PICTURES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceBatch:
    """Faces of U utterances: F face pictures, sequences padded to N, K sampled frames. Nothing found: one row of zeros."""

    faces: npt.NDArray[np.uint8]
    """[F >= 1, 48, 48, 3], red first. A picture that serves two utterances is there once."""
    face_index: npt.NDArray[np.int64]
    """[U, N >= 1], row of `faces` at each position of the sequence; 0 where there is none."""
    face_mask: npt.NDArray[np.bool_]
    """[U, N], true where `face_index` refers to a face."""
    frame_times_s: npt.NDArray[np.float64]
    """[K], timestamp of the picture chosen for each sample, on the clip's clock."""
    frame_utterance: npt.NDArray[np.int32]
    """[K], the utterance each sample belongs to, ascending."""
    frame_boxes_px: npt.NDArray[np.float32]
    """[K, 4], x0 y0 x1 y1 in pixels of the upright full-size picture; zeros where no face was found."""
    frame_scores: npt.NDArray[np.float32]
    """[K], probability of the face in [0, 1]; 0 where none was found."""
    video_errors: int
    """Packets of pictures that failed to decode."""
    fallback_frames: int = 0
    """Sampled frames that the CPU decoded because the device's decoder can't: K or, where that is not so, 0."""

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The outputs of the served model `faces`, by tensor name."""
        return {
            "FACES": self.faces,
            "FACE_INDEX": self.face_index,
            "FACE_MASK": self.face_mask,
            "FRAME_TIMES": self.frame_times_s,
            "FRAME_UTTERANCE": self.frame_utterance,
            "FRAME_BOXES": self.frame_boxes_px,
            "FRAME_SCORES": self.frame_scores,
            "VIDEO_ERRORS": np.array([self.video_errors], np.int32),
            "FALLBACK_FRAMES": np.array([self.fallback_frames], np.int32),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What one picture gave."""

    pts_s: float
    face: Face | None
    crop: Rgb | None


class FaceExtractor:
    """Finds the largest face of every sampled frame of a clip. One call at a time; memory does not grow with the clip."""

    def __init__(
        self,
        detector: Detector,
        *,
        limits: MediaLimits | None = None,
        decoder_threads: int = 0,
        step_s: float = FRAME_STEP_S,
        stand_in: bool = False,
    ) -> None:
        """Set up.

        Args:
            detector: finds the faces.
            limits: bounds on clips; None for the defaults.
            decoder_threads: threads of the decoder, fewer for very large pictures; 0: as many as this process has cores.
            step_s: seconds between samples.
            stand_in: where no face is found, the centre of the picture stands in, as in the original's training;
                else the frame is masked. Either way its score is 0.
        """
        self._detector, self._limits = detector, limits or MediaLimits()
        self._threads, self._step_s, self._stand_in = decoder_threads, step_s, stand_in

    def __call__(self, clip: ClipBytes, utterances_s: npt.ArrayLike) -> FaceBatch:
        """Faces of a clip's utterances. A clip without pictures gives a batch without frames.

        Args:
            clip: encoded media.
            utterances_s: float64 [U, 2], start and end in seconds on the clip's clock, in any order; may overlap.

        Raises:
            PipelineError: the clip or the utterances can't be used; the class says how.
        """
        utterances = checked_utterances(utterances_s, self._limits)
        wanted_s, owners = wanted_times(utterances, step_s=self._step_s)
        order = np.argsort(wanted_s, kind="stable")
        look_of_sample = np.full(len(wanted_s), -1, np.int64)
        looks: list[Look] = []
        with open_clip(clip, limits=self._limits) as opened:
            reader = PictureReader(opened, wanted_s[order], threads=self._threads)
            chunk: list[ChosenPicture] = []
            chunk_bytes = 0
            for chosen in reader:
                look_of_sample[order[list(chosen.positions)]] = len(looks) + len(chunk)
                chunk.append(chosen)
                chunk_bytes += chosen.picture.num_bytes
                if chunk_bytes >= _MAX_CHUNK_BYTES or len(chunk) >= _MAX_CHUNK_PICTURES:
                    looks += self._look(chunk)
                    chunk, chunk_bytes = [], 0
            looks += self._look(chunk)
        return face_batch(len(utterances), owners, look_of_sample, looks, reader.errors)

    def _look(self, chunk: Sequence[ChosenPicture]) -> list[Look]:
        faces = self._detector.largest_faces([chosen.picture for chosen in chunk])
        return [
            Look(pts_s=chosen.pts_s, face=face, crop=self._crop(chosen.picture, face))
            for chosen, face in zip(chunk, faces, strict=True)
        ]

    def _crop(self, picture: Picture, face: Face | None) -> Rgb | None:
        if face is not None:
            return face_crop(picture, face)
        return centre_crop(picture) if self._stand_in else None


def face_crop(picture: Picture, face: Face) -> Rgb:
    """The face with its margin, area-averaged from the full-size picture: uint8 [48, 48, 3]."""
    region = face_region(face.box, picture.width_px, picture.height_px)
    return area_resize(picture.region(*region), FACE_SIZE_PX, FACE_SIZE_PX)


def centre_crop(picture: Picture) -> Rgb:
    """The middle 48 x 48 pixels of a picture, uint8 [48, 48, 3]; of a smaller picture the middle square, enlarged."""
    side = min(FACE_SIZE_PX, picture.width_px, picture.height_px)
    x0, y0 = (picture.width_px - side) // 2, (picture.height_px - side) // 2
    return area_resize(picture.region(x0, y0, x0 + side, y0 + side), FACE_SIZE_PX, FACE_SIZE_PX)


def wanted_times(
    utterances_s: npt.NDArray[np.float64], *, step_s: float = FRAME_STEP_S
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """All sampling times of checked utterances [U, 2], one utterance after the other: seconds, and whose they are; both [samples]."""
    times = [sample_times(start_s, end_s, step_s=step_s) for start_s, end_s in utterances_s]
    return np.concatenate(times), np.repeat(np.arange(len(times)), [len(own) for own in times])


def face_batch(
    num_utterances: int,
    owners: npt.NDArray[np.int64],
    look_of_sample: npt.NDArray[np.int64],
    looks: Sequence[Look],
    video_errors: int,
) -> FaceBatch:
    """The batch of what was seen: `owners` and `look_of_sample` tell each sample's utterance and row of `looks` (-1: none)."""
    samples = np.flatnonzero(look_of_sample >= 0)  # [K], by utterance, then by time
    frame_utterance = owners[samples]
    look = look_of_sample[samples]  # [K]
    with_crop = [index for index, one in enumerate(looks) if one.crop is not None]
    row_of_look = np.full(len(looks), -1, np.int64)
    row_of_look[with_crop] = np.arange(len(with_crop))
    counts = np.bincount(frame_utterance, minlength=num_utterances)
    length = max(1, int(counts.max()))
    position = np.arange(len(samples)) - np.repeat(np.cumsum(counts) - counts, counts)  # [K], within its utterance
    face_index = np.zeros((num_utterances, length), np.int64)
    face_mask = np.zeros((num_utterances, length), bool)
    rows = row_of_look[look]  # [K]
    face_index[frame_utterance, position] = np.maximum(rows, 0)
    face_mask[frame_utterance, position] = rows >= 0
    crops = [one.crop for one in looks if one.crop is not None]
    blank = np.zeros((1, FACE_SIZE_PX, FACE_SIZE_PX, 3), np.uint8)
    return FaceBatch(
        faces=np.stack(crops) if crops else blank,
        face_index=face_index,
        face_mask=face_mask,
        frame_times_s=np.array([looks[index].pts_s for index in look], np.float64),
        frame_utterance=frame_utterance.astype(np.int32),
        frame_boxes_px=np.array([_box(looks[index]) for index in look], np.float32).reshape(-1, 4),
        frame_scores=np.array([_score(looks[index]) for index in look], np.float32),
        video_errors=video_errors,
    )


def no_faces(num_utterances: int) -> FaceBatch:
    """The batch of utterances in whose time nothing is to be seen."""
    nothing = np.zeros(0, np.int64)
    return face_batch(num_utterances, nothing, nothing, [], video_errors=0)


def _box(look: Look) -> tuple[float, float, float, float]:
    return look.face.box if look.face is not None else (0.0, 0.0, 0.0, 0.0)


def _score(look: Look) -> float:
    return look.face.score if look.face is not None else 0.0
