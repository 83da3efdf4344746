"""Where a tokenizer may come from, and when it is not the encoder's."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import import_protobuf

from fv2es_builders.assets import load_tokenizer, tokenizer_file
from fv2es_builders.errors import AssetError
from fv2es_builders.presets import ALBERT_BASE_V2, MINILM_L6

PIECES = ["▁the", "▁happy", "▁ca", "t", "s", "▁", "1", "9", ",", ".", "19", "▁A"]


def write_sentencepiece(folder: Path, pieces=PIECES) -> None:
    """A unigram model of SentencePiece with ALBERT's first five pieces."""
    messages = import_protobuf()
    model = messages.ModelProto()
    kinds = messages.ModelProto.SentencePiece.Type
    for piece, kind in (
        ("<pad>", kinds.Value("CONTROL")),
        ("<unk>", kinds.Value("UNKNOWN")),
        ("[CLS]", kinds.Value("CONTROL")),
        ("[SEP]", kinds.Value("CONTROL")),
        ("[MASK]", kinds.Value("CONTROL")),
        *((piece, kinds.Value("NORMAL")) for piece in pieces),
    ):
        model.pieces.add(piece=piece, score=-float(len(model.pieces)), type=kind)
    model.trainer_spec.model_type = 1
    model.trainer_spec.unk_id = 1
    (folder / "spiece.model").write_bytes(model.SerializeToString())


def tokens(path: Path, text: str) -> list[str]:
    return load_tokenizer(path, vocabulary=len(PIECES) + 5).encode(text).tokens


def test_folder(tmp_path):
    """A tokenizer.json is taken as it is, also where SentencePiece's model lies beside it."""
    write_sentencepiece(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokenizer_file(ALBERT_BASE_V2, tmp_path) == tmp_path / "tokenizer.json"


def test_sentencepiece_alone(tmp_path):
    """Converted by ALBERT's rules: lower case, no accents, [CLS] and [SEP]; the folder stays as it is."""
    write_sentencepiece(tmp_path)
    path = tokenizer_file(ALBERT_BASE_V2, tmp_path)
    assert tokens(path, "The  HÁPPY cats") == ["[CLS]", "▁the", "▁happy", "▁ca", "t", "s", "[SEP]"]
    assert load_tokenizer(path, vocabulary=17).encode("the").ids == [2, 5, 3]
    assert [entry.name for entry in tmp_path.iterdir()] == ["spiece.model"]
    assert path.read_bytes() == tokenizer_file(ALBERT_BASE_V2, tmp_path).read_bytes()


def test_sentencepiece_with_options(tmp_path):
    write_sentencepiece(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "model_max_length": 512}))
    assert tokens(tokenizer_file(ALBERT_BASE_V2, tmp_path), "A cats") == ["[CLS]", "▁A", "▁ca", "t", "s", "[SEP]"]
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(AssetError, match=r"tokenizer_config.json: not JSON .*; take the file that belongs"):
        tokenizer_file(ALBERT_BASE_V2, tmp_path)


def test_sentencepiece_is_albert_s(tmp_path):
    write_sentencepiece(tmp_path)
    with pytest.raises(
        AssetError, match=r"converted by ALBERT's rules alone, the encoder is bert; give tokenizer.json"
    ):
        tokenizer_file(MINILM_L6, tmp_path)


@pytest.mark.parametrize("content", [b"no model at all", b""])
def test_sentencepiece_is_broken(tmp_path, content):
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(
        AssetError, match=r"spiece.model: can't be converted \(.*\); give tokenizer.json, or ALBERT's own"
    ):
        tokenizer_file(ALBERT_BASE_V2, tmp_path)


def test_no_tokenizer(tmp_path):
    with pytest.raises(
        AssetError, match=r"this folder holds no tokenizer.json \(nor ALBERT's spiece.model\); name one"
    ):
        tokenizer_file(ALBERT_BASE_V2, tmp_path)
    (tmp_path / "file").touch()
    for nowhere in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(AssetError, match=r"does not exist and holds no tokenizer.json; name one that does"):
            tokenizer_file(ALBERT_BASE_V2, nowhere)


# --- The hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The hub's cache, empty."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as a download needs."""

    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        body = self.files.get(self.path)
        self.send_response(404 if body is None else 200)
        known = any(path.rsplit("/", 3)[0] == self.path.rsplit("/", 3)[0] for path in self.files)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if with_body and body is not None:
            self.wfile.write(body)

    def log_message(self, *_arguments) -> None:
        pass


@pytest.fixture
def hub(cache, monkeypatch):
    """A hub on this machine; the dictionary holds its files by path."""
    files: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"files": files}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    template = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield files
    server.shutdown()
    server.server_close()
    thread.join()


def test_hub(hub, tokenizer_folder, monkeypatch):
    """By name; a second time from the cache alone."""
    hub["/org/own/resolve/main/tokenizer.json"] = (tokenizer_folder / "tokenizer.json").read_bytes()
    path = tokenizer_file(MINILM_L6, Path("org/own"))
    assert path.read_bytes() == (tokenizer_folder / "tokenizer.json").read_bytes()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert tokenizer_file(MINILM_L6, Path("org/own")) == path


def test_hub_with_sentencepiece(hub, tmp_path):
    write_sentencepiece(tmp_path)
    hub["/org/albert/resolve/main/spiece.model"] = (tmp_path / "spiece.model").read_bytes()
    path = tokenizer_file(ALBERT_BASE_V2, Path("org/albert"))
    assert tokens(path, "the") == ["[CLS]", "▁the", "[SEP]"]


def test_hub_without_tokenizer(hub):
    hub["/org/own/resolve/main/config.json"] = b"{}"
    with pytest.raises(AssetError, match=r"org/own: this repository holds no tokenizer.json"):
        tokenizer_file(MINILM_L6, Path("org/own"))
    with pytest.raises(
        AssetError, match=r"org/other: there is no such folder, and the model hub gave no tokenizer .*; give a folder"
    ):
        tokenizer_file(MINILM_L6, Path("org/other"))


def test_hub_offline(cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        AssetError, match=r"org/own: there is no such folder, .* HF_HUB_OFFLINE forbids it; give a folder"
    ):
        tokenizer_file(MINILM_L6, Path("org/own"))


# --- Not the encoder's -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tokenizer_folder) -> Path:
    return tokenizer_folder / "tokenizer.json"


def test_vocabulary(file):
    """30522 tokens: the embedding may have been rounded up, by less than 128 rows."""
    for vocabulary in (30522, 30528, 30592, 30649):
        assert load_tokenizer(file, vocabulary=vocabulary).get_vocab_size() == 30522
    with pytest.raises(
        AssetError, match=r"has 30522 tokens, but the encoder has embeddings for 30521; give the encoder's"
    ):
        load_tokenizer(file, vocabulary=30521)
    with pytest.raises(
        AssetError, match=r"has 30522 tokens, .* for 30650, which is more than rounding up to a multiple of 128"
    ):
        load_tokenizer(file, vocabulary=30650)


def test_special_tokens(file, tmp_path):
    """Without a post-processor the first token is a word, and the branch would be read at it."""
    content = json.loads(file.read_text())
    content["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a").tokens[0] == "a"
    with pytest.raises(
        AssetError, match=r"makes \['a'\] of 'a', but the encoder is read at \[CLS\] .*; give a tokenizer.json"
    ):
        load_tokenizer(tmp_path / "tokenizer.json", vocabulary=30522)
