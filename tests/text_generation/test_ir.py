import pytest

from text_generation import ir


def xml(*constants: tuple[str, str], state: bool = True) -> bytes:
    """Return an IR with these constants, given by element type and shape, stored one after another in the weights."""
    layers, offset = [], 0
    for element_type, shape in constants:
        data = f'<data element_type="{element_type}" shape="{shape}" offset="{offset}" size="100" />'
        layers.append(f'<layer id="0" name="w" type="Const" version="opset1">\n\t{data}</layer>')
        offset += 100
    if state:
        layers.append('<layer id="9" name="p" type="ReadValue" version="opset6"><data variable_id="p" /></layer>')
    return f"<net>{''.join(layers)}<rt_info /></net>\n".encode()


MATRIX, SCALE, SMALL = "1000, 1000", "1000, 1", "10, 10"


@pytest.mark.parametrize(
    ("constants", "precision"),
    [
        ([("f32", MATRIX)], "FP32"),
        ([("f16", MATRIX), ("f32", SCALE)], "FP16"),
        ([("bf16", MATRIX), ("i64", MATRIX)], "BF16"),
        ([("u8", MATRIX), ("f16", SCALE)], "INT8"),
        ([("i8", MATRIX), ("f16", SCALE)], "INT8"),
        ([("u8", MATRIX), ("u4", "250, 1000"), ("f16", SCALE)], "INT4"),
        ([("i4", MATRIX)], "INT4"),
        ([("nf4", MATRIX)], "INT4"),
        ([("f8e4m3", MATRIX)], "FP8"),
        ([("f32", MATRIX), ("u8", SMALL), ("boolean", MATRIX), ("i4", "1000000")], "FP32"),
    ],
)
def test_precision_is_that_of_the_narrowest_weights(constants: list[tuple[str, str]], precision: str) -> None:
    found = ir.parse(xml(*constants))
    assert found.precision == precision
    assert found.weights_bytes == 100 * len(constants)


def test_state() -> None:
    assert ir.parse(xml(("f32", MATRIX))).stateful
    assert not ir.parse(xml(("f32", MATRIX), state=False)).stateful


@pytest.mark.parametrize("damage", [b"", b"<net>", xml(("f32", MATRIX))[:200], xml(("f32", "x, y")), xml()])
def test_damage(damage: bytes) -> None:
    assert ir.parse(damage) is None
    assert ir.parse(damage + bytes(100)) is None


def test_where_the_data_of_any_ir_ends() -> None:
    assert ir.data_bytes(xml(("u8", "7"), ("i32", ""), state=False)) == 200
    assert ir.data_bytes(xml(state=False)) is None
    assert ir.data_bytes(xml(("u8", "7"))[:-10]) is None
    assert ir.data_bytes(xml(("u8", "seven"))) is None
    assert ir.data_bytes(b"") is None
