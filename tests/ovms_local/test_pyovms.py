import array
import copy
import ctypes
import gc
import pickle
import struct
import sys

import numpy as np
import pytest

from ovms_local.pyovms import Tensor, item_size, tensor_from_request


@pytest.mark.parametrize(
    ("format", "datatype"),
    [
        ("?", "BOOL"), ("B", "UINT8"), ("H", "UINT16"), ("I", "UINT32"), ("Q", "UINT64"), ("b", "INT8"), ("h", "INT16"),
        ("i", "INT32"), ("q", "INT64"), ("f", "FP32"), ("d", "FP64"), ("l", "INT32"), ("L", "UINT32"),
    ],
)  # fmt: skip
def test_datatype_of_each_format(format, datatype):
    view = memoryview(bytes(2 * struct.calcsize(format))).cast(format)
    tensor = Tensor("x", view)
    assert (tensor.datatype, tensor.shape, memoryview(tensor).format) == (datatype, (2,), format)


@pytest.mark.parametrize(
    ("buffer", "datatype"),
    [
        (np.array(["abcdefghi"]), "9w"),
        (np.zeros(2, np.complex64), "Zf"),
        (np.zeros(2, ">f4"), ">f"),
        ((ctypes.c_int64 * 2)(), "<q"),
        (np.zeros(2, [("a", "i4"), ("b", "f4")]), memoryview(np.zeros(2, [("a", "i4"), ("b", "f4")])).format),
        (np.zeros(2, np.float16), "FP16"),
        (np.zeros(2, np.int64), "INT32"),  # as in the real module: numpy's int64 has format `l`
        (np.zeros(2, np.uint64), "UINT32"),
    ],
)
def test_datatype_of_other_formats_is_the_format(buffer, datatype):
    assert Tensor("x", buffer).datatype == datatype


@pytest.mark.parametrize(
    "buffer",
    [
        b"abc", bytearray(b"abc"), memoryview(b"abc"), array.array("h", [1, 2]), np.float32(1), np.zeros((2, 0)),
        np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3).T, np.arange(6)[::2], np.array(7),
        Tensor("other", np.arange(6).reshape(2, 3)),
    ],
    ids=lambda buffer: type(buffer).__name__,
)  # fmt: skip
def test_the_buffer_is_the_sources(buffer):
    source, tensor = memoryview(buffer), Tensor("x", buffer)
    for view in (tensor.data, memoryview(tensor)):
        assert view.readonly
        assert (view.format, view.shape, view.strides) == (source.format, source.shape, source.strides)
        assert view.tobytes() == source.tobytes()
    assert (tensor.shape, tensor.size) == (source.shape, source.nbytes)
    assert bytes(tensor) == source.tobytes()
    assert np.array_equal(np.array(tensor), np.array(source))
    assert type(np.array(tensor)) is np.ndarray


@pytest.mark.parametrize(
    "buffer",
    [
        (ctypes.c_void_p * 2)(1, 2), (ctypes.c_uint8 * 2)(1, 2), ctypes.create_string_buffer(b"ab"),
        memoryview(bytes(16)).cast("P"), memoryview(bytes(16)).cast("n"), memoryview(b"ab").cast("c"),
        memoryview(bytes(8)).cast("@i"), array.array("u", "ab"), np.zeros(2, "V3"), (ctypes.c_void_p * 2 * 3)(),
        memoryview((ctypes.c_wchar * 4)())[::2], (ctypes.c_bool * 2)(),
    ],
    ids=lambda buffer: memoryview(buffer).format,
)  # fmt: skip
def test_formats_that_numpy_does_not_know(buffer):
    source, tensor = memoryview(buffer), Tensor("x", buffer)
    own = memoryview(tensor)
    assert (own.format, own.shape, own.strides) == (source.format, source.shape, source.strides)
    assert (tensor.data.format, tensor.data.shape, tensor.datatype) == (source.format, source.shape, source.format)
    assert bytes(tensor) == tensor.data.tobytes() == source.tobytes()


def test_tensors_in_garbage_are_collected():
    class Node(Tensor):
        pass

    source = np.zeros(3, np.int32)
    references = sys.getrefcount(source)
    for _ in range(10):
        garbage = Node("x", source)
        garbage.itself, garbage.view, garbage.other = garbage, garbage.data, Tensor("y", garbage)
        del garbage
        gc.collect()
    assert sys.getrefcount(source) == references


@pytest.mark.parametrize(
    "use",
    [
        lambda t: np.add(t, 1), lambda t: np.ones((2, 3)) + t, lambda t: np.ones((2, 3)) == t, np.sum, np.mean, np.exp,
        np.ravel, np.squeeze, np.argmax, np.float32, np.asanyarray, lambda t: np.stack([t, t]), np.zeros_like,
        lambda t: np.reshape(t, (3, 2)), lambda t: np.frombuffer(t, np.int32), lambda t: b"x" + t, np.unique,
    ],
)  # fmt: skip
def test_whatever_takes_a_buffer_takes_a_tensor(use):
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    expected, found = use(memoryview(array)), use(Tensor("x", array))
    assert type(found) is type(expected)
    assert np.array_equal(found, expected)


def test_no_copy_is_made():
    source = np.zeros(3, np.int32)
    tensor = Tensor("x", source)
    source[1] = 7
    assert np.frombuffer(tensor, np.int32).tolist() == [0, 7, 0]
    assert np.shares_memory(np.frombuffer(tensor.data, np.int32), source)


@pytest.mark.parametrize(
    "make", [lambda: Tensor("x", np.arange(3)), lambda: tensor_from_request("x", "BYTES", (1,), b"abc")]
)
def test_data_can_be_used_in_any_number_of_with_blocks(make):
    tensor = make()
    expected = bytes(tensor)
    for _ in range(3):
        with tensor.data as view, memoryview(tensor) as own:
            assert view.tobytes() == own.tobytes() == expected
    tensor.data.release()
    assert (bytes(tensor), tensor.size, tensor.data.readonly) == (expected, len(expected), True)


def test_shape_and_datatype_override_the_attributes_alone():
    tensor = Tensor("x", np.arange(6, dtype=np.int32), shape=[-1, np.int64(2)], datatype="ANYTHING")
    assert (tensor.shape, tensor.datatype, tensor.size) == ((-1, 2), "ANYTHING", 24)
    assert (memoryview(tensor).shape, memoryview(tensor).format) == ((6,), "i")


@pytest.mark.parametrize(
    "arguments",
    [
        (1, b""), (None, b""), ("x", "text"), ("x", 1), ("x", None), ("x", [1]), ("x", b"", 1), ("x", b"", "12"),
        ("x", b"", [1.5]), ("x", b"", ["1"]), ("x", b"", [2**63]), ("x", b"", None, 1), ("x",), (), ("\ud800", b""),
        ("x", b"", None, "\ud800"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_type_errors(arguments):
    with pytest.raises(TypeError):
        Tensor(*arguments)


@pytest.mark.parametrize("attribute", ["name", "shape", "datatype", "data", "size"])
def test_attributes_are_read_only(attribute):
    with pytest.raises(AttributeError):
        setattr(Tensor("x", b""), attribute, "y")


def test_a_tensor_is_no_array():
    tensor = Tensor("x", np.zeros(3))
    for use in (
        len,
        list,
        lambda t: t + 1,
        lambda t: t[0],
        lambda t: t.reshape(1, 3),
        lambda t: t.dtype,
        lambda t: t.T,
        lambda t: t.raw(),
        lambda t: t.release(),
        lambda t: setattr(t, "more", 1),
        lambda t: t.__array_interface__,
        copy.deepcopy,
        pickle.dumps,
    ):
        with pytest.raises((TypeError, AttributeError)):
            use(tensor)
    assert tensor
    assert not isinstance(tensor, np.ndarray)
    assert tensor == tensor != Tensor("x", np.zeros(3))
    assert tensor in {tensor}


KNOWN = ["BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"]


@pytest.mark.parametrize("datatype", KNOWN)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("offset", [0, 1])
def test_known_datatypes_of_requests(datatype, shape, offset):
    data = memoryview(bytes(offset + item_size(datatype) * int(np.prod(shape))))[offset:]
    tensor = tensor_from_request("x", datatype, shape, data)
    assert (tensor.datatype, tensor.shape, memoryview(tensor).shape) == (datatype, shape, shape)
    assert len(memoryview(tensor).format) == 1
    assert Tensor("y", np.array(tensor)).datatype == datatype  # INT64 keeps its format `q` in numpy


@pytest.mark.parametrize("datatype", ["BYTES", "BF16", "MYTYPE", ""])
def test_other_datatypes_of_requests_are_flat_bytes(datatype):
    tensor = tensor_from_request("x", datatype, (7, 3), b"12345")
    assert (tensor.datatype, tensor.shape) == (datatype, (7, 3))
    assert (memoryview(tensor).format, memoryview(tensor).shape) == ("B", (5,))
    assert item_size(datatype) is None
