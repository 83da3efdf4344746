"""`admission`: answers first: refuses the request where too many are under way; asked by itself, says when to send a clip. Tensors: see the README of the repository."""

import triton_python_backend_utils as pb_utils

from fv2es_pipelines.adapter import adapt
from fv2es_pipelines.workers import load_admission as load

TritonPythonModel = adapt(pb_utils, load)
