"""Labelled data as rows: faces, spoken sentences, comments."""

import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.errors import DataNotFound, EmptyData, WrongFormat
from fv2es.errors import UsageError

Row = TypeVar("Row")

FACE_SIZE_PX: Final = 48
"""Side of a face as the model `visual` takes it. Source: model_repository/README.md."""

EMODB_LABELS: Final = {
    "W": "anger",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
"""Meaning of the sixth character of a file's name. Source: EmoDB (Burkhardt et al. 2005)."""
EMODB_LEFT_OUT: Final = {"L": "boredom"}
"""No model here has it."""
EMODB_NAME_LENGTH: Final = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled(Generic[Row]):
    """N rows and which of K labels hold for each."""

    path: Path
    """The file, or the folder of files."""
    sha256: str
    """Of the file; of a folder: of the lines `sha256  name` of the files that are rows, in the order of their names."""
    rows: Sequence[Row]
    names: Sequence[str]
    """Of each row, for people."""
    label_names: tuple[str, ...]
    """All that the data may say, in their own words."""
    targets: npt.NDArray[np.bool_]
    """[N, K]."""
    one_label: bool
    """True where just one label holds for each row by the nature of the data."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of rows that were left out, by reason."""


def read_faces(path: Path) -> Labelled[npt.NDArray[np.uint8]]:
    """Grey faces of an .npz with `images` uint8 [N, 48, 48], `labels` [N] and `label_names`; rows are uint8 [48, 48].

    Args:
        path: the file, or a folder that holds just one such file.

    Raises:
        DataNotFound, WrongFormat, EmptyData: it can't be used.
        UsageError: a folder holds several.
    """
    path = _only_archive(path) if path.is_dir() else path
    data = _read(path)
    try:
        with np.load(BytesIO(data)) as archive:
            images, numbers = archive["images"], archive["labels"]
            label_names = tuple(str(name) for name in archive["label_names"])
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise WrongFormat(path, f"not an .npz with images, labels and label_names ({error})") from error
    expected = (len(numbers) if numbers.ndim == 1 else -1, FACE_SIZE_PX, FACE_SIZE_PX)
    if images.dtype != np.uint8 or images.shape != expected:
        raise WrongFormat(
            path,
            f"images are {images.dtype} {list(images.shape)}, labels {list(numbers.shape)}; expected uint8 [N, 48, 48] and [N]",
        )
    if not len(images):
        raise EmptyData(path, "holds no faces")
    if numbers.dtype.kind not in "iu" or not (numbers.min() >= 0 and numbers.max() < len(label_names)):
        raise WrongFormat(
            path,
            f"labels are {numbers.dtype} from {numbers.min()} to {numbers.max()}; expected whole numbers that point into "
            f"the {len(label_names)} label_names",
        )
    return Labelled(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        rows=list(images),
        names=[f"face {row}" for row in range(len(images))],
        label_names=label_names,
        targets=numbers[:, None] == np.arange(len(label_names)),  # [N, K]
        one_label=True,
    )


def read_speech(path: Path, *, speakers: Collection[str] = ()) -> Labelled[Path]:
    """Spoken sentences of EmoDB, without boredom; rows are files.

    Args:
        path: folder of .flac, else .wav files, named SSTTTEv: speaker, text, emotion, version.
        speakers: the only ones to take; none: all.

    Raises:
        DataNotFound, WrongFormat, EmptyData: it can't be used.
        UsageError: a speaker is not in it.
    """
    if not path.exists():
        raise DataNotFound(path, "no such folder")
    files = sorted(path.glob("*.flac")) or sorted(path.glob("*.wav"))
    if not files:
        raise WrongFormat(path, "holds neither .flac nor .wav files; name the folder with EmoDB's sound files")
    for file in files:
        if len(file.stem) != EMODB_NAME_LENGTH or file.stem[5] not in {*EMODB_LABELS, *EMODB_LEFT_OUT}:
            raise WrongFormat(
                file, "expected a name of seven characters, the sixth one of WLEAFTN, such as 03a01Fa.flac"
            )
    found = {file.stem[:2] for file in files}
    if unknown := set(speakers) - found:
        raise UsageError(
            f"--speakers {','.join(sorted(unknown))}: no file of {path} is theirs; it has {', '.join(sorted(found))}"
        )
    wanted = [file for file in files if not speakers or file.stem[:2] in speakers]
    taken = [file for file in wanted if file.stem[5] in EMODB_LABELS]
    if not taken:
        raise EmptyData(path, f"all {len(wanted)} files are of {', '.join(EMODB_LEFT_OUT.values())}, which is left out")
    digest = hashlib.sha256()
    for file in taken:
        digest.update(f"{hashlib.sha256(_read(file)).hexdigest()}  {file.name}\n".encode())
    label_names = tuple(EMODB_LABELS.values())
    targets = [[EMODB_LABELS[file.stem[5]] == name for name in label_names] for file in taken]
    left_out = Counter(EMODB_LEFT_OUT[file.stem[5]] for file in wanted if file.stem[5] in EMODB_LEFT_OUT)
    return Labelled(
        path=path,
        sha256=digest.hexdigest(),
        rows=taken,
        names=[file.name for file in taken],
        label_names=label_names,
        targets=np.array(targets, np.bool_),
        one_label=True,
        left_out={f"label {name} is none of ours": rows for name, rows in left_out.items()},
    )


def read_comments(path: Path) -> Labelled[str]:
    """Comments of a .tsv with columns text, label numbers joined by commas, id; several labels may hold of one.

    `labels.txt` beside it names the numbers from 0 on, one a line.

    Raises:
        DataNotFound, WrongFormat, EmptyData: it can't be used.
    """
    data = _read(path)
    try:
        label_names = tuple(_read(path.parent / "labels.txt").decode().split())
        lines = data.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise WrongFormat(path, f"it or labels.txt beside it is not UTF-8 ({error})") from error
    if not data.strip():
        raise EmptyData(path, "holds no lines")
    texts, names, targets = [], [], np.zeros((len(lines), len(label_names)), np.bool_)
    for row, line in enumerate(lines):
        try:
            text, numbers, name = line.rstrip("\r").split("\t")
            targets[row, [_number(each, len(label_names)) for each in numbers.split(",")]] = True
        except ValueError as error:
            raise WrongFormat(
                path,
                f"line {row + 1} is {line[:80]!r}; expected text, label numbers below {len(label_names)} joined by commas, id, "
                "with tabs between",
            ) from error
        texts.append(text)
        names.append(f"line {row + 1} ({name})")
    return Labelled(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        rows=texts,
        names=names,
        label_names=label_names,
        targets=targets,
        one_label=False,
    )


def _number(text: str, limit: int) -> int:
    number = int(text)
    if not 0 <= number < limit:
        raise ValueError(f"{number} is not in [0, {limit})")
    return number


def _only_archive(folder: Path) -> Path:
    archives = sorted(folder.glob("*.npz"))
    if not archives:
        raise WrongFormat(folder, "holds no .npz; name the file with the faces")
    if len(archives) > 1:
        raise UsageError(f"{folder} holds several .npz ({', '.join(each.name for each in archives)}); name one of them")
    return archives[0]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataNotFound(path, f"can't be read ({error.strerror})") from error
