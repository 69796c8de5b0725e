"""The command line: the real server's flags, including those that have no effect here."""

import argparse
from pathlib import Path
from typing import NoReturn

from ovms_local.logs import LEVELS
from ovms_local.metrics import MetricsError, enabled_families

# The real server's exit code for a command line that it does not understand.
_USAGE_ERROR = 64

_CORS_HEADERS = {
    "allowed_origins": "Access-Control-Allow-Origin",
    "allowed_methods": "Access-Control-Allow-Methods",
    "allowed_headers": "Access-Control-Allow-Headers",
}


def parse_flags() -> argparse.Namespace:
    """Parse and check the command line; on an error, the process ends with exit code 64."""
    parser = _parser()
    flags = parser.parse_args()
    if not flags.version:
        _check(parser, flags)
    return flags


def cors_headers(flags: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the headers that allow web pages to call the server; none unless one of their flags is given.

    The real server always sends them, which lets any page open in a browser call a server on the same machine.
    """
    if not (flags.allow_credentials or any(getattr(flags, name) is not None for name in _CORS_HEADERS)):
        return []
    values = [(header, getattr(flags, name)) for name, header in _CORS_HEADERS.items()]
    headers = [(header, "*" if value is None else value) for header, value in values if value != ""]
    return headers + [("Access-Control-Allow-Credentials", "true")] * flags.allow_credentials


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_ERROR, f"{self.prog}: error: {message}\n")


def _check(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    if not (flags.port or flags.rest_port):
        parser.error("nothing to listen on: give --port (gRPC), --rest_port (REST) or both")
    if flags.port == flags.rest_port:
        parser.error("--port and --rest_port must differ")
    if flags.rest_workers and not flags.rest_port:
        parser.error("--rest_workers needs --rest_port")
    if flags.metrics_enable and not flags.rest_port:
        parser.error("--metrics_enable needs --rest_port, where the metrics are served")
    if flags.metrics_list is not None and not flags.metrics_enable:
        parser.error("--metrics_list needs --metrics_enable")
    if flags.config_path and (flags.model_name or flags.model_path):
        parser.error("--config_path can't be combined with --model_name and --model_path")
    if not flags.config_path and not (flags.model_name and flags.model_path):
        parser.error("give --config_path, or --model_name and --model_path")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ovms_local",
        description="Serve MediaPipe graphs with Python nodes the way OpenVINO Model Server does.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="store_true", help="print the versions and exit")
    add("--config_path", type=Path, help="config.json with the graphs to serve")
    add("--model_name", type=name, help="name of the one graph to serve without a config.json")
    add("--model_path", type=Path, help="its folder, with graph.pbtxt in it or in its subfolder 1")
    add("--file_system_poll_wait_seconds", type=count, default=1, metavar="SECONDS",
        help="how often to check config.json and the graphs for changes, 0 for never (%(default)s)")  # fmt: skip
    add("--shutdown_timeout", type=seconds, default=30.0, help="seconds for running requests to finish (%(default)s)")
    _add_transports(parser)
    _add_metrics_and_log(parser)
    _add_cors(parser)
    group = parser.add_argument_group("accepted as in the real server, but without effect")
    for flag in ("grpc_workers", "rest_workers"):
        group.add_argument(f"--{flag}", type=positive)
    for flag in ("grpc_memory_quota", "custom_node_resources_cleaner_interval_seconds"):
        group.add_argument(f"--{flag}", type=count)
    for flag in ("cache_dir", "cpu_extension", "api_key_file", "plugin_config", "allowed_local_media_path",
                 "allowed_media_domains"):  # fmt: skip
        group.add_argument(f"--{flag}")
    _add_switch(group, "verbose_response")
    return parser


def _add_transports(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("transports")
    group.add_argument("--port", type=port, help="port for gRPC")
    group.add_argument("--rest_port", type=port, help="port for REST")
    for flag in ("grpc_bind_address", "rest_bind_address"):
        group.add_argument(
            f"--{flag}", type=addresses, default=["127.0.0.1"], metavar="ADDRESS,...", help="default: 127.0.0.1"
        )
    group.add_argument("--grpc_max_threads", type=positive, help="maximum number of gRPC calls and open streams")
    group.add_argument(
        "--grpc_channel_arguments", type=channel_arguments, default={}, metavar="NAME=VALUE,...",
        help="arguments for the gRPC server, such as grpc.max_concurrent_streams=64",
    )  # fmt: skip


def _add_metrics_and_log(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("metrics and log")
    _add_switch(group, "metrics_enable", help="serve Prometheus metrics at /metrics on the REST port")
    group.add_argument("--metrics_list", type=metrics, metavar="NAME,...", help="serve only these metrics")
    group.add_argument("--log_level", choices=LEVELS, default="INFO", help="default: %(default)s")
    group.add_argument("--log_path", type=Path, metavar="FILE", help="also log to this file")


def _add_cors(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("headers for web pages (CORS), sent only if one of these is given")
    _add_switch(group, "allow_credentials", help="send Access-Control-Allow-Credentials")
    for flag, header in _CORS_HEADERS.items():
        group.add_argument(f"--{flag}", metavar="LIST", help=f"value of {header}, * by default")


def _add_switch(group: argparse._ArgumentGroup, name: str, help: str | None = None) -> None:
    """Add a flag that takes no value, true, or false."""
    group.add_argument(f"--{name}", type=switch, nargs="?", const=True, default=False, metavar="true|false", help=help)


# argparse uses the names of these functions in its messages ("invalid port value").


def name(argument: str) -> str:
    """Parse the name of a graph."""
    argument.encode()  # a ValueError if the argument is not UTF-8
    return argument


def port(argument: str) -> int:
    """Parse a port; 0 means none."""
    number = int(argument)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"invalid port {number}: must be 1 to 65535, or 0 for none")
    return number


def count(argument: str) -> int:
    """Parse an integer that is at least 0."""
    number = int(argument)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number


def positive(argument: str) -> int:
    """Parse an integer that is at least 1."""
    number = int(argument)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def seconds(argument: str) -> float:
    """Parse a number of seconds that is at least 0."""
    value = float(argument)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"invalid number of seconds: {argument}")
    return value


def switch(argument: str) -> bool:
    """Parse true or false."""
    if argument not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{argument!r} is neither true nor false")
    return argument == "true"


def addresses(argument: str) -> list[str]:
    """Parse a list of addresses to listen on, with at least one."""
    found = [address.strip() for address in argument.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"invalid list of addresses {argument!r}: write it like 127.0.0.1,::1")
    return list(dict.fromkeys(found))


def channel_arguments(argument: str) -> dict[str, int | str]:
    """Parse a list of names and values; numeric values become integers."""
    found: dict[str, int | str] = {}
    for pair in argument.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value) or "=" in value:
            raise argparse.ArgumentTypeError(f"{pair!r} is not NAME=VALUE")
        number = int(value) if value.removeprefix("-").isdecimal() else None
        if number is not None and not -(2**31) <= number < 2**31:
            raise argparse.ArgumentTypeError(f"{pair!r} exceeds 32 bits")
        found[name] = value if number is None else number
    return found


def metrics(argument: str) -> frozenset[str]:
    """Parse a list of metric names, which may end with a comma."""
    names = argument.removesuffix(",").split(",")
    try:
        return enabled_families(map(str.strip, names) if argument else None)
    except MetricsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
