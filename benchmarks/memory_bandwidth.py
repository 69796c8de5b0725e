"""Measures this machine's memory bandwidth, which limits the generation of one token after another."""

import time

import openvino as ov
import torch

ARRAY_BYTES = 1 << 29  # far more than any cache


class Reader:
    """Reads an array of ARRAY_BYTES from memory with all cores."""

    def __init__(self):
        self._array = torch.ones(ARRAY_BYTES // 4)

    def bytes_per_s(self) -> float:
        """Return the best of three passes over the array, as in STREAM (https://www.cs.virginia.edu/stream/)."""
        return max(self._pass() for _ in range(3))

    def _pass(self) -> float:
        start = time.perf_counter()
        self._array.sum()
        return ARRAY_BYTES / (time.perf_counter() - start)


def weight_bytes_per_token(model: ov.Model) -> int:
    """Return the bytes of weights that one step of the model reads: constants of matrix products, with their scales.

    An embedding table that is only used for lookups does not count, since a step reads just one row per token.
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
            # These operations decompress weights.
            if user.get_type_name() in ("Convert", "Subtract", "Multiply", "Reshape") and _feeds_product(user):
                return True
    return False
