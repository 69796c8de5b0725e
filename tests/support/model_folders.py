"""A model folder without a model: a few bytes for everything that is checked."""

from pathlib import Path

from text_generation import model_folder

WEIGHTS = b"\1" * 1000
XML = b"""<net>
<layer id="0" name="a" type="Const"><data element_type="f32" shape="10, 10" offset="0" size="400" /></layer>
<layer id="1" name="b" type="Const"><data element_type="f32" shape="150" offset="400" size="600" /></layer>
<layer id="2" name="past" type="ReadValue"><data variable_id="past" /></layer>
</net>
"""


def write_model(folder: Path, weights: bytes = WEIGHTS) -> None:
    for name in model_folder.NEEDED_FILES:
        (folder / name).write_bytes(b"{}")
    (folder / "openvino_model.xml").write_bytes(XML)
    (folder / "openvino_model.bin").write_bytes(weights)
    model_folder.write_info(folder, model="m", precision="FP32", source="here", packages={"openvino": "1"})
