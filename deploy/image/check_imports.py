"""Imports everything that a servable needs, so that a broken image fails when it is built, not when it serves."""

import importlib
import pkgutil
import sys

import text_generation

# pyovms belongs to the server; the library imports the others only when an engine is chosen or a model is exported.
OUTSIDE = ("pyovms", "openvino_genai", "openvino_tokenizers", "optimum.intel", "nncf")


def main():
    """Import OUTSIDE and every module of text_generation; exit with an error and code 1 at the first that fails."""
    inside = [module.name for module in pkgutil.walk_packages(text_generation.__path__, "text_generation.")]
    for name in (*OUTSIDE, *inside):
        try:
            importlib.import_module(name)
        except Exception as error:
            hint = " Choose a base image with Python support." if name == "pyovms" else ""
            sys.exit(f"error: {name} cannot be imported in this image: {type(error).__name__}: {error}.{hint}")


if __name__ == "__main__":
    main()
