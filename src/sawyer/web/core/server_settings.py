"""Where a server listens, by which names it may be called, and who owns it."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from dataclasses import dataclass

from sawyer.errors import RunError

BODY_LIMIT = 1_000_000  # bytes of a request
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
WILDCARDS = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Host and port to listen on (port 0: any free one), and the owner's token.

    Without a token everybody who reaches the port is the owner, so a host beyond loopback needs one: RunError without it.
    """

    host: str = "127.0.0.1"
    port: int = 8321
    token: str | None = None
    body_limit: int = BODY_LIMIT
    grace_seconds: int = 3  # that requests at work get when the server stops

    def __post_init__(self) -> None:
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and len(self.token) >= 8):
            raise RunError(
                "the token cannot be used",
                expected="8 or more ASCII characters",
                why="it is all that keeps others out",
                todo="name another --token, or leave it out: one is made",
            )
        if self.token is None and not is_loopback(self.host):
            raise RunError(
                f"the server would listen on {self.host} without a token",
                expected="a token, or 127.0.0.1",
                why="everyone in the network could read and change the votes",
                todo="name a token",
            )

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """The names in a request's Host header that are this server's: any other means that a foreign site's name leads here
        (DNS rebinding)."""
        if self.host in WILDCARDS:
            name = socket.gethostname().lower()
            return frozenset((*LOOPBACK_NAMES, name, f"{name}.local", lan_address() or name))
        return frozenset((*LOOPBACK_NAMES, self.host.lower()) if is_loopback(self.host) else (self.host.lower(),))

    def url(self, port: int) -> str:
        """The address to type. Of all interfaces it is the one that others in the network reach."""
        host = (lan_address() or "127.0.0.1") if self.host in WILDCARDS else self.host
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def new_token() -> str:
    """A secret of 128 bits."""
    return secrets.token_hex(16)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def lan_address() -> str | None:
    """This machine's address in its network, None where it has none. No packet is sent: a UDP socket only picks its route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address reserved for documentation
            return str(probe.getsockname()[0])
        except OSError:
            return None
