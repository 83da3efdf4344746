"""Faces out of pictures that a device has decoded and made smaller; the CPU decodes where the device can't."""

import dataclasses
from typing import Final

import numpy as np
import numpy.typing as npt

from fv2es_pipelines.constants import DETECTOR_CELL_PX
from fv2es_pipelines.faces import FaceBatch, FaceExtractor, Look, face_batch, face_crop, wanted_times
from fv2es_pipelines.frames import View
from fv2es_pipelines.limits import MediaLimits, checked_utterances
from fv2es_pipelines.mtcnn import ArrayPicture, Detector, DetectorSettings, Face
from fv2es_pipelines.picture import Rgb


def _to_rgb(red: float, blue: float) -> npt.NDArray[np.float64]:
    """Matrix from luma and colour differences to red, green, blue; `red` and `blue` are their shares of luma."""
    green = 1 - red - blue
    return np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 * (1 - blue), 0],
        ]
    )


_BT709_FROM_BT601: Final = _to_rgb(0.2126, 0.0722) @ np.linalg.inv(_to_rgb(0.299, 0.114))
"""[3, 3], from colours that were taken for those of BT.601 to the true ones. Source: ITU-R BT.601-7 and BT.709-6, shares of luma."""


class DeviceFaceExtractor:
    """Finds the largest face of every sampled picture that a device has decoded. One call at a time."""

    def __init__(self, detector: Detector, *, limits: MediaLimits | None = None) -> None:
        """Set up with a detector and bounds on clips (None: the defaults)."""
        self._detector, self._limits = detector, limits or MediaLimits()
        self._on_cpu = FaceExtractor(detector, limits=self._limits)

    def __call__(
        self,
        utterances_s: npt.ArrayLike,
        *,
        pictures: npt.NDArray[np.uint8],
        picture_times_s: npt.NDArray[np.float64],
        sample_picture: npt.NDArray[np.int32],
        view: View,
        rest: npt.NDArray[np.uint8],
    ) -> FaceBatch:
        """Faces of a clip's utterances; the other arguments are those of `FrameRequest`.

        Args:
            utterances_s: float64 [U, 2], as the request was made for.
            pictures: uint8 [J, height, width, 3], red first, not turned upright.
            picture_times_s: [J].
            sample_picture: [S].
            view: how the pictures are to be seen.
            rest: a clip to decode here, or one byte.

        Raises:
            PipelineError: the clip or the utterances can't be used; the class says how.
        """
        if len(rest) > 1:
            batch = self._on_cpu(rest, utterances_s)
            return dataclasses.replace(batch, fallback_frames=len(batch.frame_times_s))
        utterances = checked_utterances(utterances_s, self._limits)
        _, owners = wanted_times(utterances)
        looks = self._look(pictures, picture_times_s, view) if (sample_picture >= 0).any() else []
        return face_batch(len(utterances), owners, sample_picture.astype(np.int64), looks, video_errors=0)

    def _look(self, pictures: npt.NDArray[np.uint8], times_s: npt.NDArray[np.float64], view: View) -> list[Look]:
        upright = [ArrayPicture(view.orientation.upright(picture)) for picture in pictures]
        scale = np.array([view.width_px / upright[0].width_px, view.height_px / upright[0].height_px] * 2)
        settings = _scaled(self._detector.settings, float(scale[0]))
        looks = []
        for picture, face, pts_s in zip(upright, self._detector.largest_faces(upright, settings), times_s, strict=True):
            crop = None if face is None else face_crop(picture, face)
            if crop is not None and view.bt709:
                crop = in_bt709(crop)
            looks.append(Look(pts_s=float(pts_s), face=face and _at_full_size(face, scale), crop=crop))
        return looks


def _scaled(settings: DetectorSettings, scale: float) -> DetectorSettings:
    """The settings for pictures that are smaller by `scale`: the same faces are looked for, down to what P-Net can see."""
    smallest_px = max(round(settings.min_face_px / scale), DETECTOR_CELL_PX + 1)
    return dataclasses.replace(settings, min_face_px=smallest_px)


def _at_full_size(face: Face, scale: npt.NDArray[np.float64]) -> Face:
    x0, y0, x1, y1 = (np.array(face.box) * scale).tolist()
    return Face(box=(x0, y0, x1, y1), score=face.score)


def in_bt709(rgb: Rgb) -> Rgb:
    """Colours [..., 3] that were taken for those of BT.601 but are those of BT.709, put right."""
    right: Rgb = np.clip(np.rint(rgb @ _BT709_FROM_BT601.T), 0, 255).astype(np.uint8)
    return right
