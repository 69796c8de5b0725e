"""`python -m ovms_local`: the command line, with the real server's flags."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from ovms_local.logs import LEVELS, set_up_logging
from ovms_local.server import Server, ServerSettings
from ovms_local.server_config import GraphEntry, ServerConfigError, read_server_config, single_graph
from ovms_local.version import describe


def main() -> int:
    """Parse the command line and serve; the exit code."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.version:
        print(describe())
        return 0
    if arguments.port is None and arguments.rest_port is None:
        parser.error("nothing to listen on: give --port (gRPC), --rest_port (REST) or both")
    # The folder of a servable may be read-only, and stays as it is in any case.
    sys.dont_write_bytecode = True
    set_up_logging(arguments.log_level)
    settings = ServerSettings(
        arguments.grpc_bind_address, arguments.port, arguments.rest_bind_address, arguments.rest_port,
        arguments.shutdown_timeout,
    )  # fmt: skip
    try:
        asyncio.run(_serve(_entries(parser, arguments), settings))
    except (ServerConfigError, OSError) as error:
        logging.getLogger("ovms_local").error("%s", error)
        return 1
    return 0


async def _serve(entries: tuple[GraphEntry, ...], settings: ServerSettings) -> None:
    await Server(entries, settings).run()


def _entries(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> tuple[GraphEntry, ...]:
    if arguments.config_path:
        if arguments.model_name or arguments.model_path:
            parser.error("--config_path goes without --model_name and --model_path")
        return read_server_config(arguments.config_path)
    if not (arguments.model_name and arguments.model_path):
        parser.error("give --config_path, or --model_name and --model_path")
    return (single_graph(arguments.model_name, arguments.model_path),)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ovms_local",
        description="Serve Python nodes of MediaPipe graphs as OpenVINO Model Server does.",
    )
    parser.add_argument("--version", action="store_true", help="print the releases and exit")
    parser.add_argument("--config_path", type=Path, help="config.json with the graphs to serve")
    parser.add_argument("--model_name", help="name of the one graph to serve without a config.json")
    parser.add_argument("--model_path", type=Path, help="its folder, with graph.pbtxt")
    parser.add_argument("--port", type=_port, help="port for gRPC")
    parser.add_argument("--rest_port", type=_port, help="port for REST")
    parser.add_argument("--grpc_bind_address", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--rest_bind_address", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--log_level", choices=LEVELS, default="INFO", help="default: %(default)s")
    parser.add_argument("--grpc_workers", type=int, help="accepted, without effect: one event loop serves all clients")
    parser.add_argument("--rest_workers", type=int, help="accepted, without effect")
    parser.add_argument("--shutdown_timeout", type=float, default=30, help="seconds for running requests (%(default)s)")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError(f"{port} is no port: 1 to 65535")
    return port


if __name__ == "__main__":
    sys.exit(main())
