"""Runs Python servables of OpenVINO Model Server without Docker; see README.md in this folder."""

import os

# Otherwise gRPC logs a warning when a node starts a process; no child process here uses gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
