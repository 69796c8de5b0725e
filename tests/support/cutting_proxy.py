"""A proxy that can cut TCP connections."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator


class CuttingProxy:
    """Forwards connections to a port of localhost until they are cut."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Reset all connections, and accept no new ones."""
        self._listener.close()
        while self._sockets:
            end = self._sockets.pop()
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)  # wakes the reading thread, so that the socket is really closed
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target_port))
                self._sockets += (client, server)
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=(source, sink), daemon=True).start()


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[CuttingProxy]:
    """Run a proxy, which is cut at the end at the latest."""
    proxy = CuttingProxy(port)
    try:
        yield proxy
    finally:
        proxy.cut()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):  # even if one end was reset, so that the other one notices
        sink.shutdown(socket.SHUT_WR)
