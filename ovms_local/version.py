"""What the server calls itself."""

from importlib import metadata

SERVER_NAME = "OpenVINO Model Server"


def server_version() -> str:
    """Release of the OpenVINO packages that the servables run with, as the real server's release is that of its own."""
    try:
        return metadata.version("openvino")
    except metadata.PackageNotFoundError:
        return "without OpenVINO"


def describe() -> str:
    """The lines of `--version`, as the real server prints them."""
    lines = [f"{SERVER_NAME} {server_version()}"]
    for module, title in (("openvino", "OpenVINO backend"), ("openvino_genai", "OpenVINO GenAI backend")):
        try:
            lines.append(f"{title} {__import__(module).get_version()}")
        except ImportError:
            break
    return "\n".join(lines)
