"""Graphs in INT8: weights and inputs of the large products as whole numbers, around each a pair of Q/DQ nodes.

Ranges come from real inputs. A channel that is much larger than the others would take the range from them; so, as SmoothQuant (Xiao et
al. 2023) proposes, channels are scaled before they are rounded, and the weights against it, as far as that lowers the error that is
measured at the product's output. Products whose error stays above a limit are left as they are.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fv2es_builders.observe import tensor_values
from fv2es_builders.parity import Arrays
from fv2es_pipelines.specification import Profile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MIGRATIONS: Final = (0.0, 0.25, 0.5, 0.75)
"""How much of a channel's size moves into the weights, to choose from; 0: nothing. Source of the rule: SmoothQuant, equation 4."""

WORTH: Final = 0.7
"""Channels are scaled where that lowers the error below this share: it costs a pass over the input."""

ROWS: Final = 512
"""Rows of a product's input on which choices are measured."""

_LEAST: Final = 1e-5
"""Stands for the size of a channel that is always zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How one product is computed in INT8, and what that costs."""

    scale: "Floats | None"
    """[channels], by which the input is multiplied before it is rounded, and the weights divided; None: not at all."""
    low: float
    """Smallest value of the scaled input that is told apart."""
    high: float
    """Largest value."""
    error: float
    """Root mean square error of the product's output, relative to the output's deviation from its mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A graph that is ready to be quantised, and what each of its products would cost."""

    model: onnx.ModelProto
    choices: Mapping[str, Choice]
    """By the product's node name."""


def study_products(
    model: onnx.ModelProto, calibration: Sequence[Arrays], profile: Profile, *, raw_input: bool
) -> Study:
    """Measure what INT8 would do to each product of a graph with constant weights.

    Args:
        model: FP32; it is left as it is.
        calibration: real inputs, checked.
        raw_input: the graph's input is of no known range, as power without logarithm: products that read it are left alone.
            Convolutions are left alone on a CPU, where INT8 made them no faster (docs/parity.md).
        profile: whose numbers are meant: unsigned inputs with a zero point for ONNX Runtime, signed ones around zero for TensorRT.
    """
    plain = _without_gemm(model)
    weights = {tensor.name: tensor for tensor in plain.graph.initializer}
    operators = ("MatMul",) if profile == "cpu" else ("Conv", "MatMul")
    raw = {value.name for value in plain.graph.input} if raw_input else set()
    products = [
        node
        for node in plain.graph.node
        if node.op_type in operators and node.input[1] in weights and node.input[0] not in raw
    ]
    seen = _observe(plain, products, calibration)
    together: dict[tuple[str, str], list[onnx.NodeProto]] = defaultdict(list)
    for node in products:  # products of one input share its rounding
        together[node.input[0], node.op_type].append(node)
    choices: dict[str, Choice] = {}
    for (name, operator), nodes in together.items():
        kernels = [numpy_helper.to_array(weights[node.input[1]]) for node in nodes]
        if operator == "MatMul":
            choices |= dict.fromkeys(
                [node.name for node in nodes], _chosen(seen[name], np.concatenate(kernels, 1), profile)
            )
        else:
            pairs = zip(nodes, kernels, strict=True)
            choices |= {node.name: _of_convolution(seen[name], kernel, profile) for node, kernel in pairs}
    return Study(model=plain, choices=choices)


def quantised(study: Study, *, limit: float, profile: Profile) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The graph with those products in INT8 whose error is at most `limit`.

    Names and types of inputs and outputs stay. Weights are rounded by output channel, symmetrically, to -127..127.

    Args:
        study: of the graph, for the same profile.
        limit: see `Choice.error`.
        profile: whose numbers are meant.

    Returns:
        The graph, and the names of the products that stayed in FP32.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(study.model)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[Any]] = {}
    rounded: set[str] = set()
    taken = {name for name, choice in study.choices.items() if choice.error <= limit}
    kept = tuple(
        node.name for node in graph.graph.node if node.op_type in ("Conv", "MatMul") and node.name not in taken
    )
    for node in graph.graph.node:
        if node.name in taken:
            choice = study.choices[node.name]
            prefix = f"{node.input[0]}/{node.op_type.lower()}"
            if prefix not in rounded:
                rounded.add(prefix)
                nodes += _rounded_input(node.input[0], prefix, choice, profile, constants)
            nodes.append(_rounded_weight(node, weights[node.input[1]], choice, constants))
            node.input[:2] = [f"{prefix}/dequantized", f"{node.name}/weight/dequantized"]
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    others = [tensor for tensor in graph.graph.initializer if tensor.name in used]
    del graph.graph.node[:], graph.graph.initializer[:], graph.graph.value_info[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(others)
    graph.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.checker.check_model(graph, full_check=True)
    return graph, kept


def _rounded_input(
    source: str, prefix: str, choice: Choice, profile: Profile, constants: "dict[str, NDArray[Any]]"
) -> list[onnx.NodeProto]:
    """Nodes from a float tensor to its rounded self, `PREFIX/dequantized`."""
    nodes = []
    if choice.scale is not None:
        constants[f"{prefix}/channels"] = choice.scale
        scaled = f"{prefix}/scaled"
        nodes.append(helper.make_node("Mul", [source, f"{prefix}/channels"], [scaled], name=scaled))
        source = scaled
    step, zero = _steps(choice.low, choice.high, profile)
    constants[f"{prefix}/step"], constants[f"{prefix}/zero"] = np.array(step), np.array(zero)
    settings = [f"{prefix}/step", f"{prefix}/zero"]
    quantized, dequantized = f"{prefix}/quantized", f"{prefix}/dequantized"
    nodes.append(helper.make_node("QuantizeLinear", [source, *settings], [quantized], name=quantized))
    nodes.append(helper.make_node("DequantizeLinear", [quantized, *settings], [dequantized], name=dequantized))
    return nodes


def _rounded_weight(
    node: onnx.NodeProto, kernel: "Floats", choice: Choice, constants: "dict[str, NDArray[Any]]"
) -> onnx.NodeProto:
    """The node that gives a product's rounded weight, `NODE/weight/dequantized`."""
    axis = 0 if node.op_type == "Conv" else 1
    if choice.scale is not None:
        kernel = kernel / choice.scale[:, None]
    whole, steps = _whole_weight(kernel, axis)
    prefix = f"{node.name}/weight"
    constants[f"{prefix}/quantized"], constants[f"{prefix}/step"] = whole, steps
    constants[f"{prefix}/zero"] = np.zeros(len(steps), np.int8)
    names = [f"{prefix}/{part}" for part in ("quantized", "step", "zero")]
    return helper.make_node(
        "DequantizeLinear", names, [f"{prefix}/dequantized"], name=f"{prefix}/dequantized", axis=axis
    )


def _whole_weight(kernel: "Floats", axis: int) -> "tuple[NDArray[np.int8], Floats]":
    """A weight as whole numbers, and the step of each channel of `axis`."""
    others = tuple(each for each in range(kernel.ndim) if each != axis)
    steps = (np.maximum(np.abs(kernel).max(axis=others), 1e-12) / 127).astype(np.float32)
    shape = [1] * kernel.ndim
    shape[axis] = -1
    return np.clip(np.rint(kernel / steps.reshape(shape)), -127, 127).astype(np.int8), steps


def _steps(low: float, high: float, profile: Profile) -> "tuple[np.float32, np.uint8 | np.int8]":
    """Step and zero point of a range, which is widened to hold 0."""
    if profile == "gpu":
        return np.float32(max(abs(low), abs(high), 1e-8) / 127), np.int8(0)
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / 255, 1e-8)
    return np.float32(step), np.uint8(np.clip(round(-low / step), 0, 255))


def _rounded(values: "Floats", low: float, high: float, profile: Profile) -> "Floats":
    """Values as they are after quantising and back."""
    step, zero = _steps(low, high, profile)
    least, most = (-127, 127) if profile == "gpu" else (0, 255)
    back: Floats = (np.clip(np.rint(values / step) + np.float32(zero), least, most) - np.float32(zero)) * step
    return back


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What a tensor was on the calibration inputs."""

    rows: "Floats"
    """[rows, channels], a sample: of the last axis, or of the second one where a convolution reads it."""
    lows: "Floats"
    """[channels], the smallest value of each."""
    highs: "Floats"
    """[channels], the largest value of each."""


def _observe(
    model: onnx.ModelProto, products: Sequence[onnx.NodeProto], calibration: Sequence[Arrays]
) -> dict[str, _Seen]:
    """What the inputs of products were, by name."""
    pictures = {node.input[0] for node in products if node.op_type == "Conv"}
    parts: dict[str, list[_Seen]] = defaultdict(list)
    share = -(-ROWS // len(calibration))
    for values in tensor_values(model, sorted({node.input[0] for node in products}), calibration):
        for name, array in values.items():
            last = np.moveaxis(array, 1, -1) if name in pictures else array
            rows = last.reshape(-1, last.shape[-1])  # [rows, channels]
            sample = rows[:: max(1, len(rows) // share)].astype(np.float32)
            parts[name].append(_Seen(rows=sample, lows=rows.min(axis=0), highs=rows.max(axis=0)))
    return {
        name: _Seen(
            rows=np.concatenate([each.rows for each in seen]),
            lows=np.min([each.lows for each in seen], axis=0),
            highs=np.max([each.highs for each in seen], axis=0),
        )
        for name, seen in parts.items()
    }


def _chosen(seen: _Seen, kernel: "Floats", profile: Profile) -> Choice:
    """The best way to round the input of matrix products with weights [channels, all outputs]."""
    exact = seen.rows @ kernel  # [rows, outputs]
    spread = np.square(exact - exact.mean(axis=0)).mean()
    tensor_sizes = np.maximum(np.maximum(np.abs(seen.lows), np.abs(seen.highs)), _LEAST)  # [channels]
    weight_sizes = np.maximum(np.abs(kernel).max(axis=1), _LEAST)  # [channels]
    choices = []
    for migration in MIGRATIONS:
        scale = (weight_sizes ** (1 - migration) / tensor_sizes**migration).astype(np.float32)
        scale = np.ones_like(scale) if migration == 0 else scale / np.exp(np.log(scale).mean())
        low, high = float((seen.lows * scale).min()), float((seen.highs * scale).max())
        whole, steps = _whole_weight(kernel / scale[:, None], axis=1)
        found = _rounded(seen.rows * scale, low, high, profile) @ (whole * steps)
        error = float(np.sqrt(np.square(found - exact).mean() / max(spread, 1e-30)))
        choices.append(Choice(scale=scale if migration else None, low=low, high=high, error=error))
    best = min(choices, key=lambda choice: choice.error)
    return best if best.error < WORTH * choices[0].error else choices[0]


def _of_convolution(seen: _Seen, kernel: "Floats", profile: Profile) -> Choice:
    """A convolution in INT8. Its error is put together from those of input and weight, as if they had nothing to do with each other."""
    low, high = float(seen.lows.min()), float(seen.highs.max())
    whole, steps = _whole_weight(kernel, axis=0)
    back = whole * steps.reshape(-1, *(1,) * (kernel.ndim - 1))
    parts = ((seen.rows, _rounded(seen.rows, low, high, profile)), (kernel, back))
    errors = [np.square(found - exact).mean() / max(float(np.square(exact).mean()), 1e-30) for exact, found in parts]
    return Choice(scale=None, low=low, high=high, error=float(np.sqrt(sum(errors))))


def _without_gemm(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which Gemm is a matrix product and a sum: then there is one kind of product, and the sum stays in FP32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        weight, product = f"{node.name}/weight", f"{node.output[0]}/product"
        kernel = numpy_helper.to_array(tensors[node.input[1]])
        turned = np.ascontiguousarray(kernel.T) if settings.get("transB") else kernel
        copy.graph.initializer.append(numpy_helper.from_array(turned, weight))
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}/sum"))
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in copy.graph.initializer if tensor.name in used]
    del copy.graph.node[:], copy.graph.initializer[:], copy.graph.value_info[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(kept)
    return copy
