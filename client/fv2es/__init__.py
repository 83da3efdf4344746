"""Emotion timelines from video, computed by FV2ES on Triton Inference Server.

import fv2es

result = fv2es.analyze("video.mp4")
"""

from fv2es.aio import AsyncClient
from fv2es.analysis import ClientRule, Progress
from fv2es.client import Client, analyze
from fv2es.cutting import ClipRule
from fv2es.embedded import EmbeddedServer
from fv2es.errors import Fv2esError
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
