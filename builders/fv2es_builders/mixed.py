"""A graph in mixed precision: weights and large products in FP16 or BF16, the rest in FP32, every type written out.

One pass for both types. What TensorRT needs of a strongly typed graph holds of every result: each tensor has one type, and a `Cast`
stands wherever it changes.
"""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

LowType = Literal["fp16", "bf16"]

_ONNX_TYPES: Final[Mapping[LowType, int]] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

_BF16_OPSET: Final = 22
"""The first opset in which convolutions and pooling may be BF16. Nothing else changed in the operators used here since opset 20."""

LARGEST: Final[Mapping[LowType, float]] = {"fp16": 65504.0, "bf16": 3.38953139e38}
"""Largest finite number of each type. Source: IEEE 754 binary16; BF16 has the exponent of binary32 and 8 significant bits."""

HEADROOM: Final = 8.0
"""A tensor must stay this many times below the largest number on the calibration data: unseen input may be larger."""


PRODUCTS: Final = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators with almost all of the arithmetic and of the weights."""

TAMING: Final = frozenset({"LayerNormalization"})
"""What gives an input of unknown range a known one."""

_SENSITIVE: Final = frozenset({"LayerNormalization", "Sigmoid", "Softmax"})
"""Operators that sum or exponentiate: FP32."""

_LIGHT: Final = frozenset({"Add", "Concat", "Mul", "Pad", "Sub", "Unsqueeze", "Where"})
"""Operators that are FP32 where nothing but FP32 follows: rounding in between would save nothing."""

_MOVES: Final = frozenset({
    "Concat", "Expand", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"
})  # fmt: skip
"""Operators that pass numbers on: what they give is rounded already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Graph:
    """A graph with what is looked up all the time."""

    proto: onnx.GraphProto
    constants: Mapping[str, TensorProto]
    floats: frozenset[str]
    """Names of all FP32 tensors."""
    makers: Mapping[str, onnx.NodeProto]
    """The node that computes a tensor."""
    users: Mapping[str, Sequence[onnx.NodeProto]]
    """Nodes that take a tensor."""

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "_Graph":
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                users[name].append(node)
        return cls(
            proto=model.graph,
            constants={tensor.name: tensor for tensor in model.graph.initializer},
            floats=frozenset(
                [value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT]
                + [tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT]
            ),
            makers={name: node for node in model.graph.node for name in node.output},
            users=users,
        )


def mixed_precision(
    model: onnx.ModelProto, low: LowType, *, raw_input: bool = False, largest: Mapping[str, float] | None = None
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy of a graph whose weights and products are in a smaller type. Names and types of inputs and outputs stay.

    FP32 stay: softmax, layer norm and sigmoid; sums of two computed tensors (residuals, masks of -1e4, embeddings); everything
    before the first product, and the last product before an output; what has numbers too large for the type.

    Args:
        model: FP32; it is left as it is.
        low: the smaller type.
        raw_input: the input is of no known range, so that even products are FP32 until a layer norm has tamed it.
        largest: largest absolute value of tensors by name, measured; see `HEADROOM`. Tensors that are not named count as small.

    Returns:
        The graph, and the names of the products that stayed in FP32.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    graph = _Graph.of(copy)
    kept = _kept(graph, low, raw_input=raw_input, largest=largest or {})
    _write_types(graph, low, kept)
    if low == "bf16":
        for opset in copy.opset_import:
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(_BF16_OPSET, opset.version)
    onnx.checker.check_model(copy, full_check=True)
    products = [node.name for node in copy.graph.node if node.op_type in PRODUCTS and node.name in kept]
    return copy, tuple(products)


def _kept(graph: _Graph, low: LowType, *, raw_input: bool, largest: Mapping[str, float]) -> frozenset[str]:
    """Names of the nodes that stay in FP32."""
    nodes = graph.proto.node
    kept = {node.name for node in nodes if node.op_type in _SENSITIVE or _is_sum(graph, node)}
    kept |= before_operators(graph.proto, TAMING if raw_input else PRODUCTS | TAMING)
    kept |= _output_layers(graph.makers, [value.name for value in graph.proto.output])
    limit = LARGEST[low] / HEADROOM
    kept |= {node.name for node in nodes if any(_size(graph, largest, name) > limit for name in _tensors(node))}
    for node in reversed(nodes):  # users come later in the order of a graph
        users = [user for name in node.output for user in graph.users.get(name, ())]
        if node.op_type in _LIGHT and users and all(user.name in kept for user in users):
            kept.add(node.name)
    return frozenset(kept)


def _tensors(node: onnx.NodeProto) -> Sequence[str]:
    return (*node.input, *node.output)


def _size(graph: _Graph, largest: Mapping[str, float], name: str) -> float:
    """Largest absolute value of a tensor, as far as is known."""
    if name in graph.constants and name in graph.floats:
        return float(np.abs(numpy_helper.to_array(graph.constants[name])).max(initial=0))
    return largest.get(name, 0.0)


def _is_sum(graph: _Graph, node: onnx.NodeProto) -> bool:
    return node.op_type == "Add" and not any(name in graph.constants for name in node.input)


def before_operators(graph: onnx.GraphProto, ends: Container[str]) -> set[str]:
    """Names of the nodes that see an input of a graph before it went through one of the operators `ends`, without look-ups in tables."""
    constants = {tensor.name for tensor in graph.initializer}
    reached = {value.name for value in graph.input}
    names = set()
    for node in graph.node:
        looks_up = node.op_type == "Gather" and node.input[0] in constants
        if node.op_type not in ends and not looks_up and reached.intersection(node.input):
            reached.update(node.output)
            names.add(node.name)
    return names


def output_layers(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes from the last product on, seen from each output."""
    makers = {name: node for node in model.graph.node for name in node.output}
    return _output_layers(makers, [value.name for value in model.graph.output])


def _output_layers(makers: Mapping[str, onnx.NodeProto], outputs: Sequence[str]) -> set[str]:
    names: set[str] = set()
    waiting = list(outputs)
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in names:
            continue
        names.add(node.name)
        if node.op_type not in {*PRODUCTS, *_SENSITIVE} or node.op_type == "Sigmoid":
            waiting += node.input
    return names


def _write_types(graph: _Graph, low: LowType, kept: frozenset[str]) -> None:
    """Give every node's floats their type, with casts and converted weights where it differs from what there is."""
    low_type = _ONNX_TYPES[low]
    served = {value.name for value in graph.proto.output}
    types: dict[str, int] = {value.name: TensorProto.FLOAT for value in graph.proto.input}
    nodes: list[onnx.NodeProto] = []
    made: set[tuple[str, int]] = set()
    weights: dict[str, TensorProto] = {}

    def as_type(name: str, wanted: int) -> str:
        """The tensor's name in the wanted type; it is converted once."""
        converted = f"{name}.{low if wanted == low_type else 'fp32'}"
        if name in graph.constants:
            if wanted == TensorProto.FLOAT:
                weights[name] = graph.constants[name]
                return name
            weights[converted] = _converted(graph.constants[name], converted, low)
            return converted
        if types[name] == wanted:
            return name
        if (name, wanted) not in made:
            made.add((name, wanted))
            nodes.append(helper.make_node("Cast", [name], [converted], name=f"{converted}/cast", to=wanted))
        return converted

    for node in graph.proto.node:
        own = TensorProto.FLOAT if node.name in kept else low_type
        node.input[:] = [as_type(name, own) if name in graph.floats else name for name in node.input]
        nodes.append(node)
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = own
        for place, name in enumerate(node.output):
            if name not in graph.floats:
                continue
            types[name] = own
            if name in served and own == low_type:
                node.output[place] = f"{name}.{low}"
                nodes.append(
                    helper.make_node("Cast", [f"{name}.{low}"], [name], name=f"{name}/cast", to=TensorProto.FLOAT)
                )
                types[name] = TensorProto.FLOAT
    used = {name for node in nodes for name in node.input}
    others = [tensor for tensor in graph.proto.initializer if tensor.name not in graph.floats and tensor.name in used]
    del graph.proto.node[:], graph.proto.initializer[:]
    graph.proto.node.extend(nodes)
    graph.proto.initializer.extend([*others, *weights.values()])


def _converted(tensor: TensorProto, name: str, low: LowType) -> TensorProto:
    values: NDArray[np.float32] = numpy_helper.to_array(tensor)
    if low == "fp16":
        return numpy_helper.from_array(values.astype(np.float16), name)
    import ml_dtypes

    return numpy_helper.from_array(values.astype(ml_dtypes.bfloat16), name)


def storage_rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A stand-in for a mixed graph that computes in FP32 and rounds whatever a node of the smaller type gives.

    ONNX Runtime has next to no kernels for FP16 and BF16 on a CPU: it refuses BF16, and computes FP16 in FP32, skipping the rounding
    between neighbours. This graph runs there and rounds as often as a GPU does, whose products also sum in FP32.

    Args:
        model: from `mixed_precision`; it is left as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    values = onnx.shape_inference.infer_shapes(copy, strict_mode=True).graph.value_info
    low_types = {value.name: value.type.tensor_type.elem_type for value in values}
    low_types = {name: low for name, low in low_types.items() if low in _ONNX_TYPES.values()}
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _ONNX_TYPES.values():
                attribute.i = TensorProto.FLOAT
        for place, name in enumerate(node.output):
            if name in low_types and node.op_type not in _MOVES:
                node.output[place] = f"{name}/exact"
                nodes += [
                    helper.make_node("Cast", [f"{name}/exact"], [f"{name}/rounded"], to=low_types[name]),
                    helper.make_node("Cast", [f"{name}/rounded"], [name], to=TensorProto.FLOAT),
                ]
    del copy.graph.node[:], copy.graph.value_info[:]
    copy.graph.node.extend(nodes)
    for tensor in copy.graph.initializer:
        if tensor.data_type in _ONNX_TYPES.values():
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return copy


def is_mixed(model: onnx.ModelProto) -> bool:
    """Whether a graph has weights in FP16 or BF16."""
    return any(tensor.data_type in _ONNX_TYPES.values() for tensor in model.graph.initializer)
