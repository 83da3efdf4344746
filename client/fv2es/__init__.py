"""Emotion timelines from video, computed by FV2ES on Triton Inference Server.

import fv2es

result = fv2es.analyze("video.mp4")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fv2es.errors import Fv2esError

if TYPE_CHECKING:
    from fv2es.aio import AsyncClient
    from fv2es.analysis import ClientRule, Progress
    from fv2es.client import Client, analyze
    from fv2es.cutting import ClipRule
    from fv2es.embedded import EmbeddedServer
    from fv2es.files import read_results, write_results
    from fv2es.result import LostUtterance, Result, TrackPoint, UtteranceResult
    from fv2es.speech import SpeechRule
    from fv2es.track import TrackRule
    from fv2es.utterances import UtteranceRule

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "ClientRule",
    "ClipRule",
    "EmbeddedServer",
    "Fv2esError",
    "LostUtterance",
    "Progress",
    "Result",
    "SpeechRule",
    "TrackPoint",
    "TrackRule",
    "UtteranceResult",
    "UtteranceRule",
    "analyze",
    "read_results",
    "write_results",
]

_PLACES = {
    "AsyncClient": "fv2es.aio",
    "Client": "fv2es.client",
    "ClientRule": "fv2es.analysis",
    "ClipRule": "fv2es.cutting",
    "EmbeddedServer": "fv2es.embedded",
    "LostUtterance": "fv2es.result",
    "Progress": "fv2es.analysis",
    "Result": "fv2es.result",
    "SpeechRule": "fv2es.speech",
    "TrackPoint": "fv2es.result",
    "TrackRule": "fv2es.track",
    "UtteranceResult": "fv2es.result",
    "UtteranceRule": "fv2es.utterances",
    "analyze": "fv2es.client",
    "read_results": "fv2es.files",
    "write_results": "fv2es.files",
}
"""Where each name lies. It is loaded when it is asked for: the gate before an embedded server is `fv2es`, too, and needs none of it."""


def __getattr__(name: str) -> Any:
    """A public name, on first use."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
