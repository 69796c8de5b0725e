import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from ovms_local.pyovms import Tensor
from text_generation.errors import RequestError
from text_generation.serve.tensors import input_named, pack_texts, unpack_text, unpack_texts


def tensor(data: bytes, shape: list[int], datatype: str = "BYTES") -> Tensor:
    return Tensor("pre_prompt", data, shape, datatype)


def unpack(data: bytes, shape: list[int], datatype: str = "BYTES") -> list[str]:
    return unpack_texts(tensor(data, shape, datatype))


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_texts_are_packed_as_tritonclient_packs_them(texts):
    packed = serialize_byte_tensor(np.array([text.encode() for text in texts], dtype=np.object_)).item()
    assert pack_texts(texts) == packed
    assert [element.decode() for element in deserialize_bytes_tensor(pack_texts(texts))] == texts
    assert unpack(packed, [len(texts)]) == texts


def test_an_empty_tensor_has_no_texts():
    assert unpack(b"", [0]) == []


@pytest.mark.parametrize(
    ("data", "shape", "datatype", "says"),
    [
        (b"\0\0\0\0", [1], "INT32", "pre_prompt has another datatype than BYTES: INT32"),
        (b"\1\0", [1], "BYTES", "truncated: element 1 lacks its 4-byte length"),
        (b"\5\0\0\0abc", [1], "BYTES", "truncated: element 1 should have 5 bytes, but has 3"),
        (
            pack_texts(["a"]) + struct.pack("<I", 2**32 - 1),
            [2],
            "BYTES",
            "element 2 should have 4294967295 bytes, but has 0",
        ),
        (b"\1\0\0\0\xff", [1], "BYTES", "element 1 of pre_prompt is not UTF-8"),
        (b"\1\0\0\0", [1], "BYTES", "truncated: element 1 should have 1 byte, but has 0"),
        (pack_texts(["a"]), [3], "BYTES", "shape [3], but its data holds 1 element"),
        (pack_texts(["a", "b"]), [3], "BYTES", "shape [3], but its data holds 2 elements"),
        (pack_texts(["a", "b"]), [], "BYTES", "shape [], but its data holds 2 elements"),
    ],
)
def test_a_broken_tensor_is_refused_with_the_reason(data, shape, datatype, says):
    with pytest.raises(RequestError) as error:
        unpack(data, shape, datatype)
    assert says in str(error.value)


def test_the_log_is_not_told_the_datatype_which_may_be_any_text():
    with pytest.raises(RequestError, match="BYTES: xyzzy") as error:
        unpack(b"", [0], "xyzzy\n" * 1000)
    assert str(error.value).isprintable()
    assert error.value.log_message == "pre_prompt has another datatype than BYTES"


def test_inputs_are_found_by_name_wherever_they_stand():
    other, wanted = Tensor("a_first", b""), Tensor("pre_prompt", b"")
    assert input_named("pre_prompt", [other, wanted]) is wanted


def test_one_text_is_one():
    assert unpack_text(tensor(pack_texts(["Hi"]), [1])) == "Hi"
    for count in (0, 2):
        with pytest.raises(RequestError, match=f"pre_prompt has {count} elements, but must have exactly one"):
            unpack_text(tensor(pack_texts(["Hi"] * count), [count]))
