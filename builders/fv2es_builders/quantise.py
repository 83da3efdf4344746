"""Graphs in INT8: weights and inputs of the large products as whole numbers, around each a pair of Q/DQ nodes.

Ranges come from real inputs. A channel that is much larger than the others would take the range from them; so, as SmoothQuant (Xiao et
al. 2023) proposes, channels are scaled before they are rounded, and the weights against it, as far as that lowers the error that is
measured at the product's output. Products whose error stays above a limit are left as they are, and so is the last one before an
output: it is small, and its error meets nothing that would even it out.
"""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fv2es_builders.mixed import PRODUCTS, TAMING, before_operators, output_layers
from fv2es_builders.observe import check_values, tensor_values
from fv2es_builders.parity import Arrays
from fv2es_pipelines.specification import Profile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MIGRATIONS: Final = (0.25, 0.5, 0.75)
"""How much of a channel's size moves into the weights, to choose from. Source of the rule: SmoothQuant, equation 4."""

WORTH: Final = 0.7
"""Channels are scaled where that lowers the error below this share: it costs a pass over the input."""

ROWS: Final = 512
"""Rows of a product's input on which choices are measured."""

_PASSED: Final = frozenset({"MaxPool", "Relu", "Reshape", "Transpose"})
"""Operators that ONNX Runtime computes in whole numbers where rounding follows."""

_LEAST: Final = 1e-3
"""Share of the largest channel's size that every channel counts as at least: one that was always zero may not be so tomorrow."""


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
    """Root mean square error of the product's outputs, each relative to its deviation from its mean."""


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
        raw_input: the graph's input is of no known range, as power without logarithm: products are left alone until a layer norm
            has tamed it. What is loud would take the range from what is quiet.
        profile: whose numbers are meant: unsigned inputs with a zero point for ONNX Runtime, signed ones around zero for TensorRT.

    Raises:
        CalibrationError: a tensor of the graph is not finite.
    """
    plain = _without_gemm(model)
    weights = {tensor.name: tensor for tensor in plain.graph.initializer}
    alone = output_layers(plain) | (before_operators(plain.graph, TAMING) if raw_input else set())
    products = [
        node
        for node in plain.graph.node
        if node.op_type in ("Conv", "MatMul")
        and node.name not in alone
        and node.input[1] in weights
        and (node.op_type == "Conv" or len(weights[node.input[1]].dims) == 2)
    ]
    seen = _observe(plain, products, calibration)
    choices: dict[str, Choice] = {}
    for group in _groups([node for node in products if node.op_type == "MatMul"]):
        kernels = {node.input[1]: numpy_helper.to_array(weights[node.input[1]]) for node in group}
        choices |= _of_matrices(group, {node.input[0]: seen[node.input[0]] for node in group}, kernels, profile)
    for node in products:
        if node.op_type == "Conv":
            kernel = numpy_helper.to_array(weights[node.input[1]])
            choices[node.name] = _of_convolution(seen[node.input[0]], kernel, profile)
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
    if profile == "cpu":
        taken -= _to_floats(graph.graph, taken, study.choices)
    kept = tuple(node.name for node in graph.graph.node if node.op_type in PRODUCTS and node.name not in taken)
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


def _to_floats(graph: onnx.GraphProto, taken: Container[str], choices: Mapping[str, Choice]) -> set[str]:
    """Names of convolutions whose result is not rounded, just as it is, for another of the products `taken`.

    ONNX Runtime's convolutions in INT8 give whole numbers alone; any other it computes in FP32, from rounded inputs.
    """
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    rounding: set[str] = set()  # nodes that round their input as it is, or pass it on to none but such
    floats: set[str] = set()
    for node in reversed(graph.node):  # users come later in the order of a graph
        followed = bool(users[node.output[0]]) and all(user.name in rounding for user in users[node.output[0]])
        if node.op_type == "Conv" and not followed:
            floats.add(node.name)
        elif (node.name in taken and choices[node.name].scale is None) or (node.op_type in _PASSED and followed):
            rounding.add(node.name)
    return floats


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
    stored = f"{node.input[1]}/whole"
    if stored not in constants:  # products that share a weight share its scale too
        constants[stored], steps = _whole_weight(
            kernel if choice.scale is None else kernel / choice.scale[:, None], axis
        )
        constants[f"{stored}/step"], constants[f"{stored}/zero"] = steps, np.zeros(len(steps), np.int8)
    prefix = f"{node.name}/weight/dequantized"
    names = [stored, f"{stored}/step", f"{stored}/zero"]
    return helper.make_node("DequantizeLinear", names, [prefix], name=prefix, axis=axis)


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
            check_values(model, name, array)
            parts[name].append(_Seen(rows=sample, lows=rows.min(axis=0), highs=rows.max(axis=0)))
    return {
        name: _Seen(
            rows=np.concatenate([each.rows for each in seen]),
            lows=np.min([each.lows for each in seen], axis=0),
            highs=np.max([each.highs for each in seen], axis=0),
        )
        for name, seen in parts.items()
    }


def _groups(products: Sequence[onnx.NodeProto]) -> list[list[onnx.NodeProto]]:
    """Products that share an input or a weight, directly or through others: what they share is scaled once."""
    groups: list[tuple[set[str], list[onnx.NodeProto]]] = []
    for node in products:
        tensors, nodes = set(node.input[:2]), [node]
        for group in [group for group in groups if group[0] & tensors]:
            groups.remove(group)
            tensors, nodes = tensors | group[0], group[1] + nodes
        groups.append((tensors, nodes))
    return [nodes for _, nodes in groups]


def _of_matrices(
    products: Sequence[onnx.NodeProto], seen: Mapping[str, _Seen], kernels: "Mapping[str, Floats]", profile: Profile
) -> dict[str, Choice]:
    """How matrix products of a group are best rounded, by node name; products of one input have one choice.

    Args:
        products: from `_groups`.
        seen: their inputs by name.
        kernels: their weights by name, [channels, outputs].
        profile: whose numbers are meant.
    """
    tensor_sizes = np.max([np.maximum(np.abs(each.lows), np.abs(each.highs)) for each in seen.values()], axis=0)
    weight_sizes = np.max([np.abs(kernel).max(axis=1) for kernel in kernels.values()], axis=0)  # [channels]
    read_by = {name: [node for node in products if node.input[0] == name] for name in seen}

    def rounded_with(scale: "Floats | None") -> dict[str, Choice]:
        factor = np.ones_like(tensor_sizes) if scale is None else scale
        back = {name: _weight_back(kernel / factor[:, None]) for name, kernel in kernels.items()}
        found = {}
        for name, each in seen.items():
            low, high = float((each.lows * factor).min()), float((each.highs * factor).max())
            rows = _rounded(each.rows * factor, low, high, profile)
            exact = np.concatenate([each.rows @ kernels[node.input[1]] for node in read_by[name]], axis=1)
            wrong = np.concatenate([rows @ back[node.input[1]] for node in read_by[name]], axis=1) - exact
            found[name] = Choice(scale=scale, low=low, high=high, error=_relative(wrong, exact))
        return found

    def cost(choices: Mapping[str, Choice]) -> float:
        return float(np.sqrt(np.mean([np.square(choice.error) for choice in choices.values()])))

    plain = rounded_with(None)
    scaled = [rounded_with(_scale(tensor_sizes, weight_sizes, migration)) for migration in MIGRATIONS]
    best = min(scaled, key=cost)
    taken = best if cost(best) < WORTH * cost(plain) else plain
    return {node.name: taken[name] for name, nodes in read_by.items() for node in nodes}


def _relative(wrong: "Floats", exact: "Floats") -> float:
    """Error [rows, outputs] in units of each output's deviation, root mean square over all.

    Each output counts alike: transformers have a few that are a hundred times the others, which would hide what is done to these.
    """
    spread = exact.var(axis=0)
    spread = np.maximum(
        spread, max(0.1 * float(np.median(spread)), 1e-30)
    )  # one that is always the same needs no steps
    return float(np.sqrt(np.mean(np.square(wrong).mean(axis=0) / spread)))


def _scale(tensor_sizes: "Floats", weight_sizes: "Floats", migration: float) -> "Floats":
    """[channels], factors of the input that even out its channels, their geometric mean is 1."""
    tensors, weights = (
        np.maximum(sizes, max(_LEAST * float(sizes.max()), 1e-12)) for sizes in (tensor_sizes, weight_sizes)
    )
    scale = weights ** (1 - migration) / tensors**migration
    return np.asarray(scale / np.exp(np.log(scale).mean()), np.float32)


def _weight_back(kernel: "Floats") -> "Floats":
    """[channels, outputs], a weight after rounding and back."""
    whole, steps = _whole_weight(kernel, axis=1)
    back: Floats = whole * steps
    return back


def _of_convolution(seen: _Seen, kernel: "Floats", profile: Profile) -> Choice:
    """A convolution in INT8. Its error is put together from those of input and weight, as if they had nothing to do with each other."""
    low, high = float(seen.lows.min()), float(seen.highs.max())
    whole, steps = _whole_weight(kernel, axis=0)
    back = whole * steps.reshape(-1, *(1,) * (kernel.ndim - 1))
    parts = ((seen.rows, _rounded(seen.rows, low, high, profile)), (kernel, back))
    errors = [np.square(found - exact).mean() / max(float(np.square(exact).mean()), 1e-30) for exact, found in parts]
    return Choice(scale=None, low=low, high=high, error=float(np.sqrt(sum(errors))))


def _is_layer(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Whether a node is a Gemm that adds a bias to the plain product with a constant weight."""
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0 and not settings.get("transA")
    return (
        node.op_type == "Gemm" and plain and len(node.input) == 3 and bool(node.input[2]) and node.input[1] in constants
    )


def _without_gemm(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which a Gemm with a bias is a matrix product and a sum: then there is one kind of product, and the sum stays in FP32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        if not _is_layer(node, tensors):
            nodes.append(node)
            continue
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        turned = bool(settings.get("transB"))
        weight, product = f"{node.input[1]}/turned" if turned else node.input[1], f"{node.output[0]}/product"
        if turned and weight not in tensors:
            kernel = np.ascontiguousarray(numpy_helper.to_array(tensors[node.input[1]]).T)
            tensors[weight] = numpy_helper.from_array(kernel, weight)
            copy.graph.initializer.append(tensors[weight])
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}/sum"))
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in copy.graph.initializer if tensor.name in used]
    del copy.graph.node[:], copy.graph.initializer[:], copy.graph.value_info[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(kept)
    return copy
