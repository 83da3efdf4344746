"""Before a device decodes pictures: which ones, out of which packets, and what is to be known about them afterwards."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fv2es_pipelines.clip import ClipBytes, open_clip
from fv2es_pipelines.errors import NotOnDevice
from fv2es_pipelines.faces import wanted_times
from fv2es_pipelines.frame_index import Device, DeviceVideo, decode_size, device_video, stand_in_video
from fv2es_pipelines.limits import MediaLimits, checked_utterances
from fv2es_pipelines.picture import Orientation

NO_CLIP: Final = np.zeros(1, np.uint8)
"""In place of a clip that the CPU need not decode: an empty tensor is refused by Triton 2.51, and no media file is one byte long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How pictures of the device are to be seen."""

    width_px: int
    """Of the upright picture at full size."""
    height_px: int
    orientation: Orientation
    """From stored pixels to upright ones."""
    bt709: bool
    """The film states the colours of BT.709; the device has taken them for those of BT.601."""

    def to_array(self) -> npt.NDArray[np.int32]:
        """As the tensor VIEW, [6]."""
        turned = self.orientation
        return np.array(
            [self.width_px, self.height_px, turned.transpose, turned.mirror_x, turned.mirror_y, self.bt709], np.int32
        )

    @classmethod
    def from_array(cls, array: npt.NDArray[np.int32]) -> "View":
        """From the tensor VIEW."""
        width_px, height_px, transpose, mirror_x, mirror_y, bt709 = (int(value) for value in array)
        orientation = Orientation(transpose=bool(transpose), mirror_x=bool(mirror_x), mirror_y=bool(mirror_y))
        return cls(width_px=width_px, height_px=height_px, orientation=orientation, bt709=bool(bt709))


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameRequest:
    """What the device shall decode for U utterances with S sampling times, and what `faces` needs beside its J pictures."""

    video: npt.NDArray[np.uint8]
    """[bytes], for the device's decoder; a stand-in where it has nothing to do."""
    frames: npt.NDArray[np.int32]
    """[J >= 1], numbers of pictures of `video` in the order shown."""
    size: npt.NDArray[np.int32]
    """[2], height and width of the pictures to hand over, not turned upright."""
    picture_times_s: npt.NDArray[np.float64]
    """[J], when each is shown, on the clip's clock."""
    sample_picture: npt.NDArray[np.int32]
    """[S], which picture serves each sampling time, one utterance after the other; -1: none."""
    view: View
    rest: npt.NDArray[np.uint8]
    """[bytes], the clip itself where the device can't decode it; else `NO_CLIP`."""
    refused: str | None
    """Why the device can't decode it, one word (see `NotOnDevice`); None: it can, or there is nothing to decode."""

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The outputs of the served model `frames`, by tensor name. The device's inputs are a batch of one sample."""
        return {
            "VIDEO": self.video[None],
            "FRAMES": self.frames[None],
            "SIZE": self.size[None],
            "PICTURE_TIMES": self.picture_times_s,
            "SAMPLE_PICTURE": self.sample_picture,
            "VIEW": self.view.to_array(),
            "REST": self.rest,
        }


class FramePlanner:
    """Says which pictures of a clip a device shall decode. Nothing is decoded but one key picture."""

    def __init__(self, *, device: Device = "gpu", limits: MediaLimits | None = None) -> None:
        """Set up for a device; bounds on clips: None for the defaults."""
        self._device, self._limits = device, limits or MediaLimits()

    def __call__(self, clip: ClipBytes, utterances_s: npt.ArrayLike) -> FrameRequest:
        """The request for a clip's utterances.

        Args:
            clip: encoded media.
            utterances_s: float64 [U, 2], start and end in seconds on the clip's clock, in any order; may overlap.

        Raises:
            PipelineError: the clip or the utterances can't be used; the class says how.
        """
        utterances = checked_utterances(utterances_s, self._limits)
        wanted_s, _ = wanted_times(utterances)
        order = np.argsort(wanted_s, kind="stable")
        rest, refused = NO_CLIP, None
        with open_clip(clip, limits=self._limits) as opened:
            try:
                video = device_video(opened, wanted_s[order], device=self._device)
            except NotOnDevice as error:
                video = stand_in_video()
                rest, refused = np.frombuffer(clip, np.uint8), error.reason
        return _request(video, order, rest, refused)


def refused_frames(utterances_s: npt.NDArray[np.float64]) -> FrameRequest:
    """A request in which nothing is to be decoded, for usable utterances [U, 2] of a clip that is not."""
    wanted_s, _ = wanted_times(utterances_s)
    return _request(stand_in_video(), np.argsort(wanted_s, kind="stable"), NO_CLIP, None)


def _request(
    video: DeviceVideo, order: npt.NDArray[np.intp], rest: npt.NDArray[np.uint8], refused: str | None
) -> FrameRequest:
    sample_picture = np.full(len(order), -1, np.int32)
    for row, picture in enumerate(video.pictures):
        sample_picture[order[list(picture.positions)]] = row
    width_px, height_px = decode_size(video.width_px, video.height_px)
    upright = video.orientation.size_px(video.width_px, video.height_px)
    return FrameRequest(
        video=video.data,
        frames=np.array([picture.number for picture in video.pictures] or [0], np.int32),
        size=np.array([height_px, width_px], np.int32),
        picture_times_s=np.array([picture.pts_s for picture in video.pictures] or [0.0]),
        sample_picture=sample_picture,
        view=View(width_px=upright[0], height_px=upright[1], orientation=video.orientation, bt709=video.bt709),
        rest=rest,
        refused=refused,
    )
