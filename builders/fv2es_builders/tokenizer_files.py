"""A tokenizer.json out of what a text encoder's tokenizer is published as: a folder, a SentencePiece model, a hub's repository."""

import atexit
import functools
import json
import re
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from fv2es_builders.errors import AssetError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER: Final = "tokenizer.json"
SENTENCEPIECE: Final = "spiece.model"
"""Name of ALBERT's SentencePiece model. Source: the files published with albert-base-v2."""

_HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_name(source: Path) -> bool:
    """Whether this may name a repository on a model hub: `organisation/name`."""
    return _HUB_NAME.fullmatch(source.as_posix()) is not None and not source.as_posix().startswith(".")


def tokenizer_in(folder: Path, *, kind: str) -> Path:
    """The tokenizer.json of a folder; where it has only ALBERT's SentencePiece model, a converted one in a temporary folder.

    Raises:
        AssetError: it holds neither, or a model that can't be converted.
    """
    path = folder / TOKENIZER
    if path.is_file():
        return path
    model = folder / SENTENCEPIECE
    if not model.is_file():
        raise AssetError(
            str(folder), f"this folder holds no {TOKENIZER} (nor ALBERT's {SENTENCEPIECE}); name one that does"
        )
    if kind != "albert":
        raise AssetError(
            str(model),
            f"a SentencePiece model is converted by ALBERT's rules alone, the encoder is {kind}; give {TOKENIZER}",
        )
    return _converted(model, _options(folder / "tokenizer_config.json"))


def tokenizer_from_hub(name: str, *, kind: str) -> Path:
    """The tokenizer.json of a repository on the model hub, kept in the hub's own cache.

    Args:
        name: `organisation/name`.
        kind: of the text encoder.

    Raises:
        AssetError: the hub can't be reached and the cache lacks it, there is no such repository, or it holds no tokenizer.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        for file in (TOKENIZER, SENTENCEPIECE):
            try:
                found = Path(hf_hub_download(name, file))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
            return found if file == TOKENIZER else tokenizer_in(found.parent, kind=kind)
    except LocalEntryNotFoundError as error:
        raise AssetError(
            name,
            "there is no such folder, and as a name on a model hub it is not in the cache, while the hub can't be reached or "
            f"HF_HUB_OFFLINE forbids it; give a folder that holds {TOKENIZER}",
        ) from error
    except (OSError, ValueError) as error:  # what the library raises about repositories and names
        first_line = str(error).partition("\n")[0]
        raise AssetError(
            name,
            f"there is no such folder, and the model hub gave no tokenizer ({first_line}); give a folder that holds {TOKENIZER}",
        ) from error
    raise AssetError(name, f"this repository holds no {TOKENIZER} (nor ALBERT's {SENTENCEPIECE}); name one that does")


def _options(path: Path) -> dict[str, Any]:
    """`do_lower_case` and `keep_accents` of a tokenizer_config.json, if there is one; else ALBERT's own."""
    given: dict[str, Any] = {}
    if path.is_file():
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise AssetError(str(path), f"not JSON ({error}); take the file that belongs to the tokenizer") from error
    defaults = {"do_lower_case": True, "keep_accents": False}
    return {name: given.get(name, default) for name, default in defaults.items()}


def _converted(model: Path, options: dict[str, Any]) -> Path:
    """Write ALBERT's SentencePiece model as a tokenizer.json, by the converter that the published tokenizer.json was made with."""
    from transformers.convert_slow_tokenizer import AlbertConverter, import_protobuf

    try:
        pieces = import_protobuf().ModelProto.FromString(model.read_bytes()).pieces
        ids = {piece.piece: index for index, piece in enumerate(pieces)}
        source = SimpleNamespace(vocab_file=str(model), convert_tokens_to_ids=ids.__getitem__, **options)
        tokenizer: Tokenizer = AlbertConverter(source).converted()
    except Exception as error:  # protobuf, transformers and tokenizers raise nothing more exact
        raise AssetError(
            str(model),
            f"can't be converted ({type(error).__name__}: {error}); give {TOKENIZER}, or ALBERT's own {SENTENCEPIECE}",
        ) from error
    path = Path(tempfile.mkdtemp(dir=_workspace())) / TOKENIZER
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    return path


@functools.cache
def _workspace() -> str:
    """A folder that goes away with the process."""
    folder = tempfile.mkdtemp(prefix="fv2es-tokenizer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
