"""How fast this machine reads memory, which is the limit of generating one token after another."""

import time

import openvino as ov
import torch

ARRAY_BYTES = 1 << 29  # far more than any cache


class Reader:
    """Reads an array from memory with all cores; making one takes ARRAY_BYTES."""

    def __init__(self):
        self._array = torch.ones(ARRAY_BYTES // 4)

    def bytes_per_s(self) -> float:
        """The best of three passes over the array, as STREAM counts it (https://www.cs.virginia.edu/stream/)."""
        return max(self._pass() for _ in range(3))

    def _pass(self) -> float:
        start = time.perf_counter()
        self._array.sum()
        return ARRAY_BYTES / (time.perf_counter() - start)


def weight_bytes_per_token(model: ov.Model) -> int:
    """Bytes of weights that one step of the model reads: constants that matrix products use, with their scales.

    A table of embeddings that is looked up alone counts for nothing, since a step reads a row of it per token.
    """
    return sum(
        operation.get_byte_size()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "Constant" and _feeds_product(operation)
    )


def _feeds_product(operation: ov.Node) -> bool:
    for output in operation.outputs():
        for target in output.get_target_inputs():
            user = target.get_node()
            if user.get_type_name() == "MatMul":
                return target.get_index() == 1
            # What turns compressed weights into numbers to multiply with.
            if user.get_type_name() in ("Convert", "Subtract", "Multiply", "Reshape") and _feeds_product(user):
                return True
    return False
