"""A web service around the original's algorithm, as it is usually put on a machine: FastAPI, one worker, the film as an upload."""

import json
import subprocess
import sys
import tempfile
import time
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import httpx2
import uvicorn
from fastapi import FastAPI, File, Form, HTTPException, UploadFile

from benchmarks.peers import original
from benchmarks.peers.answer import Answer
from benchmarks.peers.errors import FilmUnusable, PeerFailed, TooLittleMemory
from benchmarks.peers.nets import Nets
from benchmarks.peers.plan import Span, read_plan
from benchmarks.peers.torch_nets import TorchNets

START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 3600.0


def service(nets: Nets) -> FastAPI:
    """The application: GET /health, and POST /analyze with the film as `film` and the utterances' JSON as `plan`."""
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/analyze")
    def analyze(film: Annotated[UploadFile, File()], plan: Annotated[str, Form()]) -> dict[str, Any]:
        suffix = Path(film.filename or "film").suffix
        with tempfile.NamedTemporaryFile(suffix=suffix) as kept:
            while part := film.file.read(2**20):
                kept.write(part)
            kept.flush()
            try:
                return original.analyse(Path(kept.name), read_plan(plan), nets).to_dict()
            except FilmUnusable as error:
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
            except TooLittleMemory as error:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error

    return app


def serve(repository: Path, *, port: int, num_threads: int) -> None:
    """Serve until the process is ended."""
    nets = TorchNets(repository, num_threads=num_threads)
    original.warm_up(nets)
    uvicorn.run(service(nets), host="127.0.0.1", port=port, workers=1, log_level="warning")


def ask(address: str, film: Path, spans: tuple[Span, ...]) -> Answer:
    """What the service at HOST:PORT says about a film.

    Raises:
        FilmUnusable: there is no such file.
        PeerFailed: the service refused it, or is not there.
    """
    plan = json.dumps([{"start_s": each.start_s, "end_s": each.end_s, "text": each.text} for each in spans])
    try:
        with film.open("rb") as file:
            answer = httpx2.post(
                f"http://{address}/analyze",
                files={"film": (film.name, file)},
                data={"plan": plan},
                timeout=ANSWER_TIMEOUT_S,
            )
    except OSError as error:
        raise FilmUnusable(film, f"can't be read ({error.strerror}); give a whole media file") from error
    except httpx2.HTTPError as error:
        raise PeerFailed("fastapi", f"the service at {address} gave no answer ({error!r})") from error
    if answer.status_code != HTTPStatus.OK:
        raise PeerFailed("fastapi", f"status {answer.status_code}: {_detail(answer)}")
    return Answer.from_dict(answer.json())


def _detail(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


def wait_ready(address: str, process: "subprocess.Popen[bytes]", *, timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until the service answers that a process is to become.

    Raises:
        PeerFailed: it does not within the time, or the process ends.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            if httpx2.get(f"http://{address}/health", timeout=5.0).status_code == HTTPStatus.OK:
                return
        except httpx2.HTTPError as error:
            if process.poll() is not None:
                raise PeerFailed("fastapi", f"the service ended with status {process.returncode}") from error
            if time.monotonic() > deadline_s:
                raise PeerFailed("fastapi", f"no service at {address} after {timeout_s:g} s ({error!r})") from error
        time.sleep(0.1)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), port=int(sys.argv[2]), num_threads=int(sys.argv[3]))
