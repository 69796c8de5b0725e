"""`python -m ovms_local`: reads the command line and the configuration, and serves."""

import argparse
import asyncio
import logging
import os
import resource
import sys

from ovms_local.configuration import ConfigFile, ConfigSource, SingleGraph
from ovms_local.flags import cors_headers, parse_flags
from ovms_local.logs import set_up_logging
from ovms_local.metrics import enabled_families
from ovms_local.server import Server, ServerSettings
from ovms_local.server_config import Monitoring, ServerConfigError
from ovms_local.version import describe


def main() -> int:
    """Parse the command line, serve, and return the exit code."""
    flags = parse_flags()
    if flags.version:
        print(describe())
        return 0
    # A servable's folder may be read-only, and is never modified.
    sys.dont_write_bytecode = True
    # Each connection is an open file. Shells usually allow 1,024, but the system's hard limit is much higher.
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    try:
        set_up_logging(flags.log_level, flags.log_path)
        source = ConfigFile(flags.config_path) if flags.config_path else SingleGraph(flags.model_name, flags.model_path)
        in_order = asyncio.run(_serve(source, _settings(flags, source)))
    except (ServerConfigError, OSError) as error:
        logging.getLogger("ovms_local").error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 0
    if not in_order:
        # A node that does not return would keep the interpreter from exiting.
        logging.getLogger("ovms_local").warning("exiting although a node is still running")
        logging.shutdown()
        os._exit(0)
    return 0


async def _serve(source: ConfigSource, settings: ServerSettings) -> bool:
    return await Server(source, settings).run()


def _settings(flags: argparse.Namespace, source: ConfigSource) -> ServerSettings:
    return ServerSettings(
        grpc_addresses=tuple(flags.grpc_bind_address),
        grpc_port=flags.port or None,
        grpc_channel_arguments=flags.grpc_channel_arguments,
        grpc_max_threads=flags.grpc_max_threads,
        rest_addresses=tuple(flags.rest_bind_address),
        rest_port=flags.rest_port or None,
        rest_headers=tuple(cors_headers(flags)),
        monitoring=_monitoring(flags, source),
        poll_interval=flags.file_system_poll_wait_seconds,
        shutdown_timeout=flags.shutdown_timeout,
    )


def _monitoring(flags: argparse.Namespace, source: ConfigSource) -> Monitoring:
    from_file = source.read().monitoring
    if from_file and flags.metrics_enable:
        raise ServerConfigError("metrics are configured twice: by --metrics_enable and by monitoring in config.json")
    if from_file and from_file.enabled and not flags.rest_port:
        raise ServerConfigError("monitoring in config.json needs --rest_port, where the metrics are served")
    return from_file or Monitoring(flags.metrics_enable, flags.metrics_list or enabled_families(None))


if __name__ == "__main__":
    sys.exit(main())
