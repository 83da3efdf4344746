"""The TensorRT plans of a gpu repository, made and proven on the GPU that will serve them. The command `fv2es plans`.

Needs neither PyTorch nor the checkpoint: it runs in the serving image itself, in a job on the target GPU.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from fv2es_builders import assets
from fv2es_builders.build import locked, no_space_said
from fv2es_builders.cache import Cache, default_cache_folder
from fv2es_builders.cuda import find_gpu
from fv2es_builders.errors import BuildError, BuildUsageError, RepositoryIncomplete
from fv2es_builders.graphs import ENGINES, Report, graph_path
from fv2es_builders.manifest import MANIFEST_PATH, facts_sha256, write_manifest
from fv2es_builders.plans import PLAN_NAME, plan_from_onnx, shape_profile, usable_flavour
from fv2es_pipelines.plan_check import tensorrt_version
