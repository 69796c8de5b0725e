"""Make the tokenizer of a model folder as an OpenVINO model: `python -m ...convert_tokenizer FOLDER`.

A process of its own, in which transformers finds no torch to import.
"""

import sys
from pathlib import Path


def main() -> None:
    """Convert the tokenizer of the folder that is this process's argument."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to say that a module can't be imported
    from text_generation.prepare import tokenizer
    from text_generation.prepare.running import run

    run(lambda: tokenizer.write_openvino_tokenizer(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
