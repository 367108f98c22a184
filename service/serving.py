"""Owns the listening socket: refusing a port that is taken, and running the application on it."""

from __future__ import annotations

import errno
import gc
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from service.runtime import Resight

GRACE_S = 20
"""How long requests may go on after SIGTERM."""


class PortTaken(Exception):
    """Another program listens where the service wants to."""


class _Server(uvicorn.Server):
    """Tells its address once it answers, and ends what has no end of its own before it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        when_ready: Callable[[str], None] | None,
        end_streams: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._when_ready = when_ready
        self._end_streams = end_streams

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._when_ready is not None and self.started and self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            self._when_ready(f"http://{shown}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_streams()
        await super().shutdown(sockets=sockets)


def serve(resight: Resight, *, when_ready: Callable[[str], None] | None = None) -> None:
    """Answers until SIGTERM or Ctrl-C; `when_ready` is called with the address once it listens."""
    from service.app import create_app

    settings = resight.settings
    logging.basicConfig(format="%(levelname)s:     %(message)s")
    app = create_app(settings, resight=resight)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        server_header=False,
        # uvicorn would believe every program of this machine.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=GRACE_S,
        log_level="info" if when_ready is None else "warning",
    )
    # What is loaded by now stays: a full collection would look at it all, for a tenth of a second.
    gc.freeze()
    _Server(config, when_ready, lambda: app.state.resight.streams.end()).run()


def refuse_taken_port(host: str, port: int, instead: str) -> None:
    """Raises `PortTaken`, with the way out, where something listens; port 0 is always free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PortTaken(
                f"Port {port} of {host} is taken by another program. "
                f"End that one, or choose another port: {instead}."
            ) from None
