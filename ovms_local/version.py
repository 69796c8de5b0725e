"""The server's name and version."""

from importlib import metadata

SERVER_NAME = "OpenVINO Model Server"


def server_version() -> str:
    """Return the release of the installed OpenVINO package, just as the real server's is that of its OpenVINO."""
    try:
        return metadata.version("openvino")
    except metadata.PackageNotFoundError:
        return "without OpenVINO"


def describe() -> str:
    """Return the output of `--version`, in the real server's format."""
    lines = [f"{SERVER_NAME} {server_version()}"]
    for module, title in (("openvino", "OpenVINO backend"), ("openvino_genai", "OpenVINO GenAI backend")):
        try:
            lines.append(f"{title} {__import__(module).get_version()}")
        except ImportError:
            break
    return "\n".join(lines)
