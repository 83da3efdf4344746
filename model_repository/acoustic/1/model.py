"""`acoustic`: pieces to features (attention over the spectrum). Tensors: see the README of the repository."""

import triton_python_backend_utils as pb_utils

from fv2es_pipelines.adapter import adapt
from fv2es_pipelines.engine import load_engine as load

TritonPythonModel = adapt(pb_utils, load)
