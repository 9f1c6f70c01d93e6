"""A remote server as one line of the configuration.

    redis://user:password@host:6379/0?ttl=60min    Redis or Valkey over TCP
    rediss://host/?ca=/etc/ssl/redis.pem           the same through TLS
    unix:///run/redis/redis.sock?db=1              a socket on this host
    redis+sentinel://:pw@one:26379,two/cache/0     the server that these sentinels call "cache"
    mooncake://master:50051/?segment=4GiB          Mooncake's distributed store

Options of Redis, after `?`: `timeout` (500ms, say: how long the server may be silent, by default
1s), `ttl` (60min, say: it forgets what was not used for so long; by default it keeps what fits),
and for TLS `ca` (a file of certificates to trust) and `verify=no` (trust anybody). Sentinels are
asked before each connection, through TLS with `rediss+sentinel`; `sentinel_password` is theirs.

Options of Mooncake: `segment` (memory of this host that the store may use, by default none), `host`
(how others reach this host, by default 127.0.0.1), `protocol` (tcp or rdma), `devices` (for rdma),
`metadata` (P2PHANDSHAKE or the URL of a metadata service), `replicas` (copies of each object),
`pin=soft` (evict others first) and `timeout` (after which nobody waits for a call any more).

Options of all: `write`, when chunks are written there: `through` (by default, as soon as memory has
them), `seen:2` (once so many requests had them) or `evict` (once memory is nearly full).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from radixkv.errors import ConfigError
from radixkv.units import parse_duration, parse_size
from radixkv.write_policy import WritePolicy

_REDIS_OPTIONS = ("timeout", "ttl", "db", "ca", "verify", "write")
_SENTINEL_OPTIONS = ("timeout", "ttl", "ca", "verify", "write", "sentinel_password")
_MOONCAKE_OPTIONS = (
    *("segment", "host", "protocol", "devices"),
    *("metadata", "replicas", "pin", "timeout", "write"),
)
_LARGEST_NUMBER = (1 << 31) - 1
_MOST_DIGITS = 10
_LONGEST_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """What such a line says of a Redis. As text it has no password.

    Attributes:
        host: Empty for a socket on this host, and where sentinels are asked.
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
        write: Which chunks are written to it, and when.
        sentinels: Hosts and ports of those that know where the server is; none for most.
        master_name: As what they know it.
        sentinel_password: Empty where they ask for none.
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
    write: WritePolicy
    sentinels: tuple[tuple[str, int], ...] = ()
    master_name: str = ""
    sentinel_password: str = field(default="", repr=False)

    def __str__(self) -> str:
        if self.sentinels:
            return f"{self.master_name} by sentinels, database {self.database}"
        place = f"unix://{self.unix_path}" if self.unix_path else f"{self.host}:{self.port}"
        return f"{place}, database {self.database}"


@dataclass(frozen=True, slots=True)
class MooncakeUrl:
    """What such a line says of a Mooncake store.

    Attributes:
        master: Its host and port.
        local_host: How others reach this host.
        metadata: Where clients find each other.
        protocol: Of transfers, "tcp" or "rdma".
        devices: For RDMA; empty for all.
        segment_bytes: Memory of this host that the store may use.
        num_replicas: Copies of each object.
        soft_pin: Whether objects are evicted after others.
        timeout_s: After which nobody waits for a call any more.
        write: Which chunks are written to it, and when.
    """

    master: str
    local_host: str
    metadata: str
    protocol: str
    devices: str
    segment_bytes: int
    num_replicas: int
    soft_pin: bool
    timeout_s: float
    write: WritePolicy

    def __str__(self) -> str:
        return f"mooncake {self.master}"


RemoteUrl = RedisUrl | MooncakeUrl


def parse_remote(url: str) -> RemoteUrl:
    """Read a line.

    Raises:
        ConfigError: It is no such URL; the reason does not repeat its password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that are no IPv6 address; the error names all between them
        raise _refusal("expected a host") from None
    if parts.scheme in ("redis", "rediss", "unix"):
        return _parse_redis(parts, _options(parts, _REDIS_OPTIONS))
    if parts.scheme in ("redis+sentinel", "rediss+sentinel"):
        return _parse_sentinels(parts, _options(parts, _SENTINEL_OPTIONS))
    if parts.scheme == "mooncake":
        return _parse_mooncake(parts, _options(parts, _MOONCAKE_OPTIONS))
    raise _refusal("expected a URL that begins with redis, rediss, unix, redis+sentinel, mooncake")


def _parse_redis(parts: SplitResult, options: Mapping[str, str]) -> RedisUrl:
    is_unix = parts.scheme == "unix"
    if is_unix and not parts.path:
        raise _refusal("expected a path")
    return RedisUrl(
        host="" if is_unix else _host(parts),
        unix_path=unquote(parts.path) if is_unix else "",
        port=_port(parts, 6379),
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=_number(
            "database", options.get("db") or ("" if is_unix else parts.path.strip("/")) or "0"
        ),
        tls=parts.scheme.startswith("rediss"),
        ca_file=options.get("ca", ""),
        verifies_server=_choice(options, "verify", ("yes", "no")) == "yes",
        timeout_s=_timeout(options),
        ttl_s=_time_to_live(options),
        write=_write_policy(options),
    )


def _parse_sentinels(parts: SplitResult, options: Mapping[str, str]) -> RedisUrl:
    user, _, hosts = parts.netloc.rpartition("@")
    master_name, _, database = parts.path.strip("/").partition("/")
    if not master_name:
        raise _refusal("expected the name of the server that the sentinels watch")
    places = [urlsplit(f"//{host}") for host in hosts.split(",")]
    server = parts._replace(netloc=f"{user}@{places[0].netloc}", path=database)
    return replace(
        _parse_redis(server, options),
        host="",
        sentinels=tuple((_host(place), _port(place, 26379)) for place in places),
        master_name=unquote(master_name),
        sentinel_password=options.get("sentinel_password", ""),
    )


def _parse_mooncake(parts: SplitResult, options: Mapping[str, str]) -> MooncakeUrl:
    try:
        segment_bytes = parse_size(options.get("segment", "0B"))
    except ValueError:
        raise _refusal("segment: expected a size such as 4GiB") from None
    return MooncakeUrl(
        master=f"{_host(parts)}:{_port(parts, 50051)}",
        local_host=options.get("host", "127.0.0.1"),
        metadata=options.get("metadata", "P2PHANDSHAKE"),
        protocol=_choice(options, "protocol", ("tcp", "rdma")),
        devices=options.get("devices", ""),
        segment_bytes=segment_bytes,
        num_replicas=_number("replicas", options.get("replicas", "1"), least=1),
        soft_pin=_choice(options, "pin", ("no", "soft")) == "soft",
        timeout_s=_timeout(options),
        write=_write_policy(options),
    )


def _options(parts: SplitResult, known: tuple[str, ...]) -> dict[str, str]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in known:
            raise _refusal(f"unknown option {name!r}, known are {', '.join(known)}")
    return options


def _host(parts: SplitResult) -> str:
    if not parts.hostname:
        raise _refusal("expected a host")
    return parts.hostname


def _port(parts: SplitResult, default: int) -> int:
    try:
        port = default if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not port:
        raise _refusal("expected a port from 1 to 65535")
    return port


def _number(name: str, text: str, least: int = 0) -> int:
    number = int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else -1
    if not least <= number <= _LARGEST_NUMBER:
        raise _refusal(f"{name}: expected a number from {least} to {_LARGEST_NUMBER}, got {text!r}")
    return number


def _choice(options: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """One of them; the first by default."""
    chosen = options.get(name, choices[0])
    if chosen not in choices:
        raise _refusal(f"{name}: expected {' or '.join(choices)}")
    return chosen


def _timeout(options: Mapping[str, str]) -> float:
    seconds = _duration(options, "timeout", 1.0)
    if not 0 < seconds <= _LONGEST_TIMEOUT_S:
        raise _refusal(f"timeout: expected more than 0, at most {_LONGEST_TIMEOUT_S:g}s")
    return seconds


def _time_to_live(options: Mapping[str, str]) -> int:
    """In the whole seconds that a server counts; 0 is never."""
    seconds = _duration(options, "ttl", 0.0)
    if seconds and not 1 <= seconds <= _LARGEST_NUMBER:
        raise _refusal(f"ttl: expected 0 (never) or from 1s to {_LARGEST_NUMBER}s")
    return round(seconds)


def _write_policy(options: Mapping[str, str]) -> WritePolicy:
    try:
        return WritePolicy.parse(options.get("write", "through"))
    except ValueError:
        raise _refusal("write: expected through, evict or seen:2, say") from None


def _duration(options: Mapping[str, str], name: str, default: float) -> float:
    if name not in options:
        return default
    try:
        return parse_duration(options[name])
    except ValueError:
        raise _refusal(f"{name}: expected a duration such as 500ms") from None


def _refusal(reason: str) -> ConfigError:
    return ConfigError(f"remotes: {reason}")
