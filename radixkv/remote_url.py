"""A remote server as one line of the configuration.

    redis://user:password@host:6379/0?ttl=60min    Redis or Valkey over TCP
    rediss://host/?ca=/etc/ssl/redis.pem           the same through TLS
    unix:///run/redis/redis.sock?db=1              a socket on this host

Options, after `?`: `timeout` (500ms, say: how long the server may be silent, by default 1s), `ttl`
(60min, say: it forgets what was not used for so long; by default it keeps what fits), and for TLS
`ca` (a file of certificates to trust) and `verify=no` (trust anybody).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from radixkv.errors import ConfigError
from radixkv.units import parse_duration

_PORT = 6379
_SCHEMES = ("redis", "rediss", "unix")
_OPTIONS = ("timeout", "ttl", "db", "ca", "verify")


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """What such a line says. As text it has no password.

    Attributes:
        host: Empty for a socket on this host.
        unix_path: That socket; else empty.
        port: Of the host.
        username: Empty for the server's default user.
        password: Empty where none is asked for.
        database: Number of the server's database.
        tls: Whether the connection is encrypted.
        ca_file: Certificates to trust; empty for the system's.
        verifies_server: Whether its certificate and name are checked.
        timeout_s: How long the server may be silent.
        ttl_s: After which it forgets what is not used; 0 for never.
    """

    host: str
    unix_path: str
    port: int
    username: str
    password: str = field(repr=False)
    database: int
    tls: bool
    ca_file: str
    verifies_server: bool
    timeout_s: float
    ttl_s: int

    def __str__(self) -> str:
        place = f"unix://{self.unix_path}" if self.unix_path else f"{self.host}:{self.port}"
        return f"{place}, database {self.database}"

    @staticmethod
    def parse(url: str) -> RemoteUrl:
        """Read a line.

        Raises:
            ConfigError: It is no such URL; the reason does not repeat its password.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise _refusal(f"expected a URL that begins with {', '.join(_SCHEMES)}")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise _refusal(f"unknown option {unknown[0]!r}, known are {', '.join(_OPTIONS)}")
        is_unix = parts.scheme == "unix"
        try:
            port = parts.port or _PORT
        except ValueError:
            raise _refusal("expected a port from 1 to 65535") from None
        if not (parts.path if is_unix else parts.hostname):
            raise _refusal("expected a path" if is_unix else "expected a host")
        return RemoteUrl(
            host="" if is_unix else parts.hostname or "",
            unix_path=unquote(parts.path) if is_unix else "",
            port=port,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            database=_database(options.get("db") or ("" if is_unix else parts.path.strip("/"))),
            tls=parts.scheme == "rediss",
            ca_file=options.get("ca", ""),
            verifies_server=options.get("verify", "yes") != "no",
            timeout_s=_duration(options, "timeout", 1.0),
            ttl_s=round(_duration(options, "ttl", 0.0)),
        )


def _database(text: str) -> int:
    if text and not text.isdecimal():
        raise _refusal(f"expected the number of a database, got {text!r}")
    return int(text or 0)


def _duration(options: Mapping[str, str], name: str, default: float) -> float:
    if name not in options:
        return default
    try:
        seconds = parse_duration(options[name])
    except ValueError:
        raise _refusal(f"{name}: expected a duration such as 500ms") from None
    if name == "timeout" and not seconds:
        raise _refusal("timeout: expected more than 0")
    return seconds


def _refusal(reason: str) -> ConfigError:
    return ConfigError(f"remotes: {reason}")
