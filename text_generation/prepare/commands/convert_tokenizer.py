"""Converts the tokenizer of a model folder to an OpenVINO model: `python -m ...convert_tokenizer FOLDER`.

This is a separate process so that transformers finds no torch to import.
"""

import sys
from pathlib import Path

from text_generation.imports import hide
from text_generation.prepare.running import run


def main() -> None:
    """Convert the tokenizer of the folder given as this process's argument."""
    hide("torch")
    from text_generation.prepare import tokenizer

    run(lambda: tokenizer.write_openvino_tokenizer(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
