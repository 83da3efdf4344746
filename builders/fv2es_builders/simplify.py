"""Exported graphs made plain: no arithmetic on shapes where a constant says the same, nothing twice, nothing unused.

Most of the plainness comes from the modules themselves, which compute what exports well; `onnx_ir` removes what is left over.
"""

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
)

_KEEP, _INFER = 0, -1
"""In the shape that a Reshape takes: as long as the input's axis at the same place; whatever is left."""


def simplify(model: ir.Model) -> None:
    """Make an exported graph plain, in place. What it computes stays the same, bit for bit.

    Args:
        model: with the shapes of all intermediate tensors, as the exporter notes them.
    """
    for node in model.graph:
        if node.op_type == "Reshape":
            _fix_shape(model.graph, node)
    # The exporter leaves large constants alone that several nodes use: the weights of layers that share them.
    onnxscript.optimizer.fold_constants(model, should_fold=_turns_a_weight)
    for tidy in (
        IdentityEliminationPass(),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
        DeduplicateInitializersPass(),
    ):
        tidy(model)


def _turns_a_weight(node: ir.Node) -> bool | None:
    """True for the transposition of a weight, which a constant of the same size replaces; None: the usual rules."""
    source = node.inputs[0] if node.op_type == "Transpose" else None
    return True if source is not None and source.is_initializer() else None


def _fix_shape(graph: ir.Graph, node: ir.Node) -> None:
    """Give a Reshape a constant shape instead of a computed one, where one can say it."""
    source, shape = node.inputs[0], node.inputs[1]
    if source is None or shape is None or shape.const_value is not None:
        return
    wanted = _constant_shape(source.shape, node.outputs[0].shape)
    if wanted is None:
        return
    name = f"{node.outputs[0].name}_shape"
    constant = ir.Value(name=name, const_value=ir.tensor(np.array(wanted, dtype=np.int64), name=name))
    constant.shape, constant.dtype = ir.Shape([len(wanted)]), ir.DataType.INT64
    graph.register_initializer(constant)
    node.replace_input_with(1, constant)
    node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def _constant_shape(before: ir.Shape | None, after: ir.Shape | None) -> list[int] | None:
    """The constant that turns a tensor of shape `before` into one of shape `after`; None: there is none.

    An axis of variable length is either the same as the input's axis at its place, or the only one that is left to infer.
    """
    if before is None or after is None:
        return None
    axes = []
    for place, axis in enumerate(after):
        if isinstance(axis, int):
            axes.append(axis)
        elif place < len(before) and axis == before[place]:
            axes.append(_KEEP)
        else:
            axes.append(_INFER)
    return axes if axes.count(_INFER) <= 1 and 0 not in after else None
