"""Runs Python servables of OpenVINO Model Server without Docker: see README.md beside this file."""

import os

# A node that starts a process would have gRPC write a warning; none of its child processes uses gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
