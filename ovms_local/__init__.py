"""Runs Python servables of OpenVINO Model Server without Docker: see README.md beside this file."""
