"""Completes the tokenizer of a model folder and converts it to an OpenVINO model.

`python -m ...convert_tokenizer FOLDER` is a separate process so that transformers finds no torch to import.
"""

import sys
from pathlib import Path

from text_generation.imports import hide
from text_generation.prepare.running import run


def main() -> None:
    """Complete and convert the tokenizer of the folder given as this process's argument."""
    hide("torch")
    from text_generation.prepare import tokenizer

    def complete_and_convert() -> None:
        folder = Path(sys.argv[1])
        tokenizer.complete_tokenizer(folder)
        tokenizer.write_openvino_tokenizer(folder)

    run(complete_and_convert)


if __name__ == "__main__":
    main()
