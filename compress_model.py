#!/usr/bin/env python3
"""Compress the weights of a model folder."""

from text_generation.prepare.commands.compress_model import main

if __name__ == "__main__":
    main()
