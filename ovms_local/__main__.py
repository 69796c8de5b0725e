"""`python -m ovms_local`: the command line, with the real server's flags."""

import argparse
import asyncio
import logging
import os
import resource
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
    _check(parser, arguments)
    # The folder of a servable may be read-only, and stays as it is in any case.
    sys.dont_write_bytecode = True
    # Each connection is an open file, of which a shell allows 1,024 where the system allows many more.
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    set_up_logging(arguments.log_level)
    settings = ServerSettings(
        grpc_address=arguments.grpc_bind_address,
        grpc_port=arguments.port or None,
        rest_address=arguments.rest_bind_address,
        rest_port=arguments.rest_port or None,
        metrics=arguments.metrics_enable,
        shutdown_timeout=arguments.shutdown_timeout,
    )
    try:
        in_order = asyncio.run(_serve(_entries(arguments), settings))
    except (ServerConfigError, OSError) as error:
        logging.getLogger("ovms_local").error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 0
    if not in_order:
        # A node that does not come back would keep the interpreter from ending.
        logging.getLogger("ovms_local").warning("a node is still running: it is cut off")
        logging.shutdown()
        os._exit(0)
    return 0


async def _serve(entries: tuple[GraphEntry, ...], settings: ServerSettings) -> bool:
    return await Server(entries, settings).run()


def _entries(arguments: argparse.Namespace) -> tuple[GraphEntry, ...]:
    if arguments.config_path:
        return read_server_config(arguments.config_path)
    return (single_graph(arguments.model_name, arguments.model_path),)


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if not (arguments.port or arguments.rest_port):
        parser.error("nothing to listen on: give --port (gRPC), --rest_port (REST) or both")
    if arguments.port == arguments.rest_port:
        parser.error("--port and --rest_port must differ")
    if arguments.metrics_enable and not arguments.rest_port:
        parser.error("--metrics_enable needs --rest_port, where the metrics are served")
    if arguments.config_path and (arguments.model_name or arguments.model_path):
        parser.error("--config_path goes without --model_name and --model_path")
    if not arguments.config_path and not (arguments.model_name and arguments.model_path):
        parser.error("give --config_path, or --model_name and --model_path")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ovms_local",
        description="Serve Python nodes of MediaPipe graphs as OpenVINO Model Server does.",
    )
    parser.add_argument("--version", action="store_true", help="print the releases and exit")
    parser.add_argument("--config_path", type=Path, help="config.json with the graphs to serve")
    parser.add_argument("--model_name", help="name of the one graph to serve without a config.json")
    parser.add_argument("--model_path", type=Path, help="its folder, with graph.pbtxt")
    parser.add_argument("--port", type=port, help="port for gRPC")
    parser.add_argument("--rest_port", type=port, help="port for REST")
    parser.add_argument("--grpc_bind_address", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--rest_bind_address", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--metrics_enable", action="store_true", help="serve Prometheus metrics at /metrics of REST")
    parser.add_argument("--log_level", choices=LEVELS, default="INFO", help="default: %(default)s")
    without_effect = "accepted, without effect: one event loop serves all clients"
    parser.add_argument("--grpc_workers", type=positive, help=without_effect)
    parser.add_argument("--rest_workers", type=positive, help=without_effect)
    parser.add_argument(
        "--shutdown_timeout", type=seconds, default=30.0, help="seconds running requests have at the end (%(default)s)"
    )
    return parser


# argparse names these in its own messages ("invalid port value").


def port(argument: str) -> int:
    """A flag's value as a port, 0 for none."""
    number = int(argument)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"{number} is no port: 1 to 65535, or 0 for none")
    return number


def positive(argument: str) -> int:
    """A flag's value as a number of things, 1 or more."""
    number = int(argument)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def seconds(argument: str) -> float:
    """A flag's value as a time to wait, 0 or more."""
    value = float(argument)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{argument} is no number of seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
