#!/usr/bin/env python3
"""Download a chat model and make an OpenVINO model folder of it."""

from text_generation.prepare.commands.download_model import main

if __name__ == "__main__":
    main()
