import sys

import pytest

from ovms_local.flags import cors_headers, parse_flags

GOOD = ["--port", "9000", "--config_path", "config.json"]


@pytest.fixture
def parse(monkeypatch):
    """Parse a command line."""

    def parse(*arguments):
        monkeypatch.setattr(sys, "argv", ["ovms_local", *arguments])
        return parse_flags()

    return parse


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config_path", "x"], "nothing to listen on"),
        (["--config_path", "x", "--port", "0"], "nothing to listen on"),
        (["--port", "9"], "give --config_path, or --model_name and --model_path"),
        (["--port", "9", "--model_name", "x"], "give --config_path, or --model_name and --model_path"),
        ([*GOOD, "--model_name", "y"], "can't be combined with"),
        (["--port", "9", "--model_path", "x", "--model_name", "\udcff"], "invalid name value: '\\udcff'"),
        ([*GOOD, "--port", "99999"], "invalid port 99999"),
        ([*GOOD, "--rest_port", "9000"], "must differ"),
        ([*GOOD, "--metrics_enable"], "--metrics_enable needs --rest_port"),
        ([*GOOD, "--rest_port", "8000", "--metrics_list", "ovms_responses"], "--metrics_list needs --metrics_enable"),
        ([*GOOD, "--rest_port", "8000", "--metrics_enable", "--metrics_list", "ovms_x"], "unknown metric 'ovms_x'"),
        ([*GOOD, "--metrics_enable", "1"], "'1' is neither true nor false"),
        ([*GOOD, "--rest_workers", "4"], "--rest_workers needs --rest_port"),
        ([*GOOD, "--log_level", "LOUD"], "invalid choice"),
        ([*GOOD, "--grpc_workers", "0"], "less than 1"),
        ([*GOOD, "--grpc_max_threads", "many"], "invalid positive value"),
        ([*GOOD, "--grpc_memory_quota", "-1"], "less than 0"),
        ([*GOOD, "--file_system_poll_wait_seconds", "-1"], "less than 0"),
        ([*GOOD, "--shutdown_timeout", "-1"], "invalid number of seconds"),
        ([*GOOD, "--grpc_bind_address", "127.0.0.1,"], "invalid list of addresses"),
        ([*GOOD, "--grpc_channel_arguments", "grpc.x"], "'grpc.x' is not NAME=VALUE"),
        ([*GOOD, "--grpc_channel_arguments", "a=1=2"], "'a=1=2' is not NAME=VALUE"),
        ([*GOOD, "--grpc_channel_arguments", "a=99999999999"], "exceeds 32 bits"),
        ([*GOOD, "--no_such_flag", "1"], "unrecognized arguments: --no_such_flag"),
        ([*GOOD, "--log", "INFO"], "unrecognized arguments: --log"),
        ([*GOOD, "--metrics_enabl"], "unrecognized arguments: --metrics_enabl"),
        ([*GOOD, "stray"], "unrecognized arguments: stray"),
    ],
)
def test_a_wrong_command_line_ends_with_the_servers_exit_code_and_one_line(parse, capsys, arguments, text):
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code == 64
    [line] = capsys.readouterr().err.splitlines()
    assert text in line


def test_the_flags_of_a_deployment_are_taken(parse):
    flags = parse(
        *GOOD, "--rest_port", "8000", "--grpc_workers", "2", "--rest_workers", "16", "--grpc_max_threads", "64",
        "--grpc_memory_quota", "2147483648", "--grpc_channel_arguments", "grpc.max_concurrent_streams=64, a=b",
        "--file_system_poll_wait_seconds", "0", "--log_path", "/tmp/log", "--log_level", "DEBUG", "--metrics_enable",
        "--metrics_list", "ovms_responses, ovms_streams", "--cache_dir", "/opt/cache", "--cpu_extension", "/x.so",
        "--allow_credentials", "--allowed_origins", "*", "--allowed_methods", "GET", "--allowed_headers", "X",
        "--api_key_file", "/key", "--verbose_response", "--plugin_config", '{"NUM_STREAMS": "1"}',
        "--custom_node_resources_cleaner_interval_seconds", "300", "--allowed_local_media_path", "/media",
        "--allowed_media_domains", "example.com", "--grpc_bind_address", "0.0.0.0, ::", "--rest_bind_address", "::1",
    )  # fmt: skip
    assert flags.grpc_channel_arguments == {"grpc.max_concurrent_streams": 64, "a": "b"}
    assert flags.metrics_list == {"ovms_responses", "ovms_streams"}
    assert (flags.grpc_bind_address, flags.rest_bind_address) == (["0.0.0.0", "::"], ["::1"])
    assert (flags.file_system_poll_wait_seconds, flags.grpc_max_threads) == (0, 64)


def test_what_holds_without_a_flag(parse):
    flags = parse(*GOOD)
    assert (flags.grpc_bind_address, flags.rest_bind_address) == (["127.0.0.1"], ["127.0.0.1"])
    assert (flags.file_system_poll_wait_seconds, flags.grpc_max_threads, flags.grpc_channel_arguments) == (1, None, {})
    assert (flags.metrics_enable, flags.metrics_list, flags.log_level, flags.log_path) == (False, None, "INFO", None)


@pytest.mark.parametrize(
    ("arguments", "enabled"),
    [(["--allow_credentials"], True), (["--allow_credentials=true"], True), (["--allow_credentials=false"], False)],
)
def test_switches_may_have_a_value(parse, arguments, enabled):
    assert parse(*GOOD, *arguments).allow_credentials is enabled


ORIGIN, METHODS, HEADERS = (f"Access-Control-Allow-{what}" for what in ("Origin", "Methods", "Headers"))
CREDENTIALS = "Access-Control-Allow-Credentials"


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ([], {}),
        (["--allow_credentials=false"], {}),
        (["--allowed_origins", "http://a,http://b"], {ORIGIN: "http://a,http://b", METHODS: "*", HEADERS: "*"}),
        (["--allowed_methods", "GET", "--allowed_headers", ""], {ORIGIN: "*", METHODS: "GET"}),
        (["--allow_credentials"], {ORIGIN: "*", METHODS: "*", HEADERS: "*", CREDENTIALS: "true"}),
    ],
)
def test_headers_for_browsers_come_with_their_flags_alone(parse, arguments, headers):
    assert dict(cors_headers(parse(*GOOD, *arguments))) == headers
