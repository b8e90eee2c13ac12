"""Proxies that the environment names: which one an address is asked through, and what is wrong with it.

Clients of endpoints and of the hub (httpx) and of MLflow (requests) read the same variables. They find a mistake in them
when they are made or when they first ask, which may be hours into a sweep.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

Client = Literal["httpx", "requests"]
SCHEMES = {
    "httpx": ("http", "https", "socks5", "socks5h"),
    "requests": ("http", "https", "socks4", "socks4a", "socks5", "socks5h"),
}
SOCKS = {"httpx": ("socksio", "socksio"), "requests": ("socks", "pysocks")}
"""The module that a client speaks SOCKS with, and the package it comes in."""
PORTS = {"http": 80, "https": 443}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TIMEOUT = 5.0
"""Seconds that a proxy has to accept a connection before anything is started."""


class Proxy(NamedTuple):
    """One proxy of the environment: the variable that names it, and its value as it is written."""

    variable: str
    value: str

    @property
    def url(self) -> str:
        """The value with a scheme, as clients read it."""
        return self.value if "://" in self.value else f"http://{self.value}"

    @property
    def shown(self) -> str:
        """The value for a sentence, without a user and a password."""
        return re.sub(r"^([a-z][a-z0-9+.-]*://)?.*@", r"\1…@", self.value, flags=re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address; 0.0.0.0 is what servers print that listen everywhere."""
    name = host.lower().rstrip(".")
    with suppress(ValueError):
        address = ipaddress.ip_address(name.partition("%")[0])
        return address.is_loopback or address.is_unspecified
    return name == "localhost" or name.endswith(".localhost")


def bypass_loopback() -> None:
    """Have this process and those it starts ask this machine directly, where the environment names a proxy.

    A proxy elsewhere cannot reach a server of this machine. The clients know no such rule, only NO_PROXY.
    """
    if not list(_named()):
        return
    hosts = _excepted()
    if "*" not in hosts:
        added = [host for host in LOOPBACK if host not in hosts]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*hosts, *added])


def proxy_of(url: str) -> Proxy | None:
    """The proxy that an address is asked through; None where it is asked directly."""
    parts = urlsplit(url)
    if not parts.hostname or is_loopback(parts.hostname) or _is_excepted(parts):
        return None
    named = {proxy.variable.lower(): proxy for proxy in _named()}
    return named.get(f"{parts.scheme}_proxy") or named.get("all_proxy")


def proxy_problems(url: str, client: Client) -> list[str]:
    """What keeps a client from asking an address through the environment's proxies, a sentence each; asks the proxy."""
    used = proxy_of(url)
    return proxy_mistakes(url, client) or (_unreachable(used, urlsplit(url).hostname or "") if used else [])


def proxy_mistakes(url: str, client: Client) -> list[str]:
    """The same of what the variables say, without asking the proxy.

    httpx reads every proxy when a client is made, also those that the address does not need.
    """
    host, used = urlsplit(url).hostname, proxy_of(url)
    if not host or is_loopback(host):
        return []
    read = [used] if used else []
    if client == "httpx" and "*" not in _excepted():
        read = list(_named())
    return [problem for proxy in read for problem in _unusable(proxy, client)]


def through(url: str) -> str:
    """Words for a sentence about an address that did not answer as it should; empty where no proxy is in between."""
    proxy = proxy_of(url)
    return f", asked through {proxy.variable} {proxy.shown}" if proxy else ""


def _named() -> Iterator[Proxy]:
    """The proxies that the environment names; the variable in small letters wins, as with every client."""
    for scheme, value in getproxies_environment().items():
        if scheme in ("http", "https", "all"):
            small = f"{scheme}_proxy"
            variable = small if os.environ.get(small) else next(n for n in os.environ if n.lower() == small)
            yield Proxy(variable, value.strip())


def _excepted() -> list[str]:
    """What NO_PROXY names."""
    excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return [host.strip() for host in excepted.split(",") if host.strip()]


def _is_excepted(parts: SplitResult) -> bool:
    """Whether NO_PROXY names the host: by its name, a domain, or a network of addresses."""
    host = parts.hostname or ""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        for written in _excepted():
            with suppress(ValueError):
                if address in ipaddress.ip_network(written, strict=False):
                    return True
    names = [name.removeprefix("*") if name.startswith("*.") else name for name in _excepted()]
    location = f"{host}:{parts.port}" if parts.port else host
    return bool(proxy_bypass_environment(location, {"no": ",".join(names)}))


def _unusable(proxy: Proxy, client: Client) -> list[str]:
    """A value that is no proxy's address, or one that the client does not speak with."""
    try:
        parts = urlsplit(proxy.url)
        scheme, is_address = parts.scheme.lower(), bool(parts.hostname) and parts.port != 0
    except ValueError:
        scheme, is_address = "http", False
    module, package = SOCKS[client]
    if scheme not in SCHEMES[client]:
        wrong = f"must begin with {', '.join(f'{known}://' for known in SCHEMES[client])}, got {proxy.shown}"
    elif not is_address:
        wrong = f"must be a proxy's address such as http://HOST:PORT, got {proxy.shown!r}"
    elif scheme.startswith("socks") and importlib.util.find_spec(module) is None:
        wrong = f"{proxy.shown} is a SOCKS proxy, for which the package {package} is missing; pip install {package}"
        return [f"{proxy.variable}: {wrong}, or unset {proxy.variable}."]
    else:
        return []
    return [f"{proxy.variable}: {wrong}; correct or unset {proxy.variable}."]


def _unreachable(proxy: Proxy, host: str) -> list[str]:
    """A proxy must accept a connection."""
    parts = urlsplit(proxy.url)
    port = parts.port or PORTS.get(parts.scheme.lower(), 1080)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=TIMEOUT).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return [
            f"{proxy.variable}: the proxy {proxy.shown}, through which {host} is asked, does not answer ({reason}); correct "
            f"or unset {proxy.variable}, or set NO_PROXY={host} if {host} is reached without it."
        ]
    return []
