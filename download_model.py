#!/usr/bin/env python3
"""Download a chat model and create an OpenVINO model folder from it."""

from text_generation.prepare.commands.download_model import main

if __name__ == "__main__":
    main()
