"""IEMOCAP and CMU-MOSEI in the layout that MME2E publishes: utterances with pictures, sound, words and labels.

    DIR/IEMOCAP_RAW_PROCESSED/meta.pkl                        utterance -> {"text": words, "label": one of the preset's}
    DIR/IEMOCAP_RAW_PROCESSED/ANY/UTTERANCE/image_{L,R}_N.jpg  30 pictures a second of each of the two speakers
    DIR/IEMOCAP_RAW_PROCESSED/ANY/UTTERANCE/audio_{L,R}.wav
    DIR/IEMOCAP_SPLIT/{train,valid,test}_split.txt             names of utterances, one a line
    DIR/MOSEI_RAW_PROCESSED/meta.pkl                          utterance -> {"text": words, "label": six times 0 or 1}
    DIR/MOSEI_RAW_PROCESSED/UTTERANCE/{image_N.jpg,audio.wav}  2 pictures a second
    DIR/MOSEI_SPLIT/{train,valid,test}_split.txt

Source: the README and the data sets' loader of MME2E (Dai et al. 2021, Multimodal End-to-End Sparse Model for Emotion
Recognition).
"""

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fv2es_builders.errors import TrainingDataError
from fv2es_pipelines import constants

Phase = Literal["train", "valid", "test"]
PHASES: Final[tuple[Phase, ...]] = ("train", "valid", "test")

IEMOCAP_FPS: Final = 30.0
MOSEI_FPS: Final = 2.0
"""Pictures a second as they lie on disk. The published code takes every 15th of both: one per 7.5 s of CMU-MOSEI."""

IEMOCAP_SESSIONS: Final[Mapping[Phase, frozenset[str]]] = {
    "train": frozenset({"Ses01", "Ses02", "Ses03"}),
    "valid": frozenset({"Ses04"}),
    "test": frozenset({"Ses05"}),
}
"""Two speakers in each session, who are in no other. The published lists share every dialogue between training and test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One row of the data."""

    name: str
    pictures: tuple[Path, ...]
    """One every 0.5 s, in order; may be empty."""
    sound: Path | None
    words: str
    targets: tuple[float, ...]
    """1 where the label holds, one for each of the preset's labels."""


def load_iemocap(folder: Path, labels: Sequence[str], *, published_split: bool = False) -> dict[Phase, list[Utterance]]:
    """Utterances of each phase, speakers apart unless the published lists are asked for.

    Raises:
        TrainingDataError: a file is absent, or not as in this module's description.
    """
    root = folder / "IEMOCAP_RAW_PROCESSED"
    meta, lists = _meta(root / "meta.pkl"), _lists(folder / "IEMOCAP_SPLIT")
    places = {place.name: place for place in root.glob("*/*") if place.is_dir()}
    split: dict[Phase, list[Utterance]] = {phase: [] for phase in PHASES}
    for listed, names in lists.items():
        for name in names:
            own, side = _entry(meta, name, root), _iemocap_side(name, root)
            if own["label"] not in labels:
                raise TrainingDataError(
                    root / "meta.pkl", f"{name} has label {own['label']!r}, none of {', '.join(labels)}"
                )
            if name not in places:
                raise TrainingDataError(root, f"has no folder */{name}; see the layout in {__name__}")
            utterance = Utterance(
                name=name,
                pictures=_pictures(places[name], f"image_{side}_", IEMOCAP_FPS),
                sound=_sound(places[name] / f"audio_{side}.wav"),
                words=str(own["text"]),
                targets=tuple(float(label == own["label"]) for label in labels),
            )
            split[listed if published_split else _phase_of_session(name, root)].append(utterance)
    return split


def load_mosei(folder: Path, labels: Sequence[str]) -> dict[Phase, list[Utterance]]:
    """Utterances of each phase by the published lists.

    Raises:
        TrainingDataError: a file is absent or not as in this module's description, or a video is in two phases.
    """
    root = folder / "MOSEI_RAW_PROCESSED"
    meta, lists = _meta(root / "meta.pkl"), _lists(folder / "MOSEI_SPLIT")
    _check_videos_apart(lists, folder / "MOSEI_SPLIT")
    split: dict[Phase, list[Utterance]] = {phase: [] for phase in PHASES}
    for phase, names in lists.items():
        for name in names:
            own = _entry(meta, name, root)
            targets = tuple(float(value) for value in own["label"])
            if len(targets) != len(labels) or not set(targets) <= {0.0, 1.0}:
                raise TrainingDataError(
                    root / "meta.pkl", f"{name} has label {own['label']!r}; expected {len(labels)} times 0 or 1"
                )
            place = root / name
            if not place.is_dir():
                raise TrainingDataError(place, f"no such folder; see the layout in {__name__}")
            split[phase].append(
                Utterance(
                    name=name,
                    pictures=_pictures(place, "image_", MOSEI_FPS),
                    sound=_sound(place / "audio.wav"),
                    words=str(own["text"]),
                    targets=targets,
                )
            )
    return split


def video_of(name: str) -> str:
    """The video that an utterance of CMU-MOSEI is from: its name without the number at the end (`_7` or `[7]`)."""
    return re.sub(r"(_\d+|\[\d+\])$", "", name)


def _check_videos_apart(lists: Mapping[Phase, Sequence[str]], source: Path) -> None:
    phases: dict[str, Phase] = {}
    for phase, names in lists.items():
        for name in names:
            known = phases.setdefault(video_of(name), phase)
            if known != phase:
                raise TrainingDataError(
                    source, f"video {video_of(name)!r} is in {known} and in {phase}; move its utterances to one of them"
                )


def _iemocap_side(name: str, source: Path) -> str:
    """L or R: whose pictures and sound. The session's name ends with the speaker on the left, the turn's begins with its own."""
    parts = name.split("_")
    if len(parts) < 3 or not parts[0] or not parts[-1]:
        raise TrainingDataError(source, f"utterance {name!r} is not named like Ses01F_impro01_F000")
    return "L" if parts[0][-1] == parts[-1][0] else "R"


def _phase_of_session(name: str, source: Path) -> Phase:
    for phase, sessions in IEMOCAP_SESSIONS.items():
        if name[:5] in sessions:
            return phase
    raise TrainingDataError(source, f"utterance {name!r} is of none of the sessions Ses01 to Ses05")


def _pictures(place: Path, prefix: str, fps: float) -> tuple[Path, ...]:
    """One picture every 0.5 s: the last one at or before each time, picture n standing at n / fps."""
    found = {
        int(own[1]): path
        for path in place.glob(f"{prefix}*.jpg")
        if (own := re.fullmatch(rf"{re.escape(prefix)}(\d+)", path.stem))
    }
    if not found:
        return ()
    step = constants.FRAME_STEP_S * fps
    numbers = [int(turn * step + 1e-6) for turn in range(int(max(found) / step + 1e-6) + 1)]
    return tuple(found[number] for number in numbers if number in found)


def _sound(path: Path) -> Path | None:
    return path if path.is_file() else None


def _lists(folder: Path) -> dict[Phase, list[str]]:
    lists: dict[Phase, list[str]] = {}
    for phase in PHASES:
        path = folder / f"{phase}_split.txt"
        try:
            lists[phase] = path.read_text(encoding="utf-8").split()
        except OSError as error:
            raise TrainingDataError(path, f"can't be read ({error}); see the layout in {__name__}") from error
    return lists


def _entry(meta: Mapping[str, Any], name: str, root: Path) -> Mapping[str, Any]:
    own = meta.get(name)
    if not isinstance(own, Mapping) or not {"text", "label"} <= own.keys():
        raise TrainingDataError(root / "meta.pkl", f"holds no text and label of {name!r}, which a split names")
    return own


def _meta(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            meta = _PlainUnpickler(file).load()
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise TrainingDataError(path, f"can't be read ({error}); see the layout in {__name__}") from error
    if not isinstance(meta, Mapping):
        raise TrainingDataError(path, f"holds a {type(meta).__name__}; expected a dictionary of utterances")
    return meta


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, text and numpy arrays; refuses everything else, so that no code runs."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not plain data")
        return super().find_class(module.replace("numpy._core", "numpy.core"), name)
