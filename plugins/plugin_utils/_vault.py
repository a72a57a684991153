# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A logged-in session of one task with Vault or OpenBao: login, renewal, retries, and errors that say what to do.

The token is in memory alone. One that was made by a login here is revoked when the session ends.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from ..module_utils._model import HostsealError, shorten
from ._paths import file_text

try:
    import hvac
    import requests
    import urllib3
    from hvac.adapters import RawAdapter
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry
except ImportError:  # told when a session is opened
    HAS_HVAC = False
else:
    HAS_HVAC = True

TIMEOUT = 30
RETRIES = 3
_CONNECT_TIMEOUT = 10
_REVOKE_TIMEOUT = 5
_MAX_BACKOFF = 8
_HOPS = 2
_AGAIN = (412, 429, 500, 502, 503, 504)
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Answer:
    """What the server said: HTTP status and JSON body ({} when there is none)."""

    status: int
    body: dict[str, Any]

    @property
    def errors(self) -> list[str]:
        """The server's error texts."""
        errors = self.body.get("errors")
        return [str(error) for error in errors] if isinstance(errors, list) else []


class VaultSession:
    """Open it after the fork, close it before the task ends. Threads may share it."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """OPTIONS are those of the doc fragment hostseal.secrets.backend, environment and variables applied."""
        if not HAS_HVAC:
            raise HostsealError(
                "the Python of ansible-core on the control node lacks hvac, which the backend vault needs: install it"
                " with pip, or add it to the execution environment"
            )
        self._options = options
        self.address = _address(options)
        self.namespace: str | None = options.get("namespace") or None
        retries = _number(options, "retries", RETRIES, 0)
        self._timeout = _number(options, "timeout", TIMEOUT, 1)
        self._certificate = _files(options)
        # A request that was lost on the way may have been carried out: only those that may be repeated are.
        self._repeatable = self._client(Retry(retries, read=min(retries, 1), status_forcelist=_AGAIN, **_BACKOFF))
        # One over the limit of the rate was not looked at.
        self._once = self._client(Retry(retries, read=0, status_forcelist=(429,), **_BACKOFF))
        self._lock = threading.Lock()
        self._spent: list[str] = []
        self._lease = _Lease(None, 0, False)
        self._login()

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, repeatable: bool = True
    ) -> dict[str, Any]:
        """The JSON body of a request's answer; HostsealError with address, path and advice when it is refused."""
        answer = self.ask(method, path, body, repeatable=repeatable)
        if answer.status >= 400:
            raise self.refusal(answer, method, path, body)
        return answer.body

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = True,
        wrap_ttl: str | None = None,
    ) -> Answer:
        """The answer, whatever its status; HostsealError only when there is none."""
        self._keep_alive()
        return self._request(method, path, body, repeatable, wrap_ttl)

    def refusal(self, answer: Answer, method: str, path: str, body: Mapping[str, Any] | None = None) -> HostsealError:
        """What to tell of an answer that is an error, or not one to this request."""
        if answer.status < 400:
            return self.error(method, path, f"what answers is no Transit engine (status {answer.status}): {_ADDRESS}")
        text = " ".join(answer.errors)
        if answer.status == 403:
            return self.error(method, path, self._denied())
        advice = next((advice for part, advice in _KNOWN if part in text), None) or _BY_STATUS.get(answer.status)
        words = _quotable(answer.errors, body)
        return self.error(method, path, f"{advice or 'the server refuses'} (status {answer.status}{words})")

    def error(self, method: str, path: str, text: str) -> HostsealError:
        """TEXT, with the address and the request that it is about."""
        where = f" in namespace {self.namespace!r}" if self.namespace else ""
        return HostsealError(f"Vault at {self.address}: {method} {path}{where}: {text}")

    def close(self) -> None:
        """Revoke the tokens that were made here, and end the connections."""
        for token in [*self._spent, self._once.token] if self._lease.own else []:
            self._once.token = token
            with contextlib.suppress(HostsealError):
                self._request("POST", "auth/token/revoke-self", None, repeatable=False, timeout=_REVOKE_TIMEOUT)
        for client in (self._repeatable, self._once):
            client.token = None
            client.session.close()

    # Requests

    def _client(self, retry: Retry) -> hvac.Client:
        session = requests.Session()
        adapter = HTTPAdapter(max_retries=retry)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        verify: bool | str = (
            self._options.get("ca_cert") or True if self._options.get("validate_certs", True) else False
        )
        if not verify:
            # Whoever opens a session tells the user, once.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        session.verify = verify
        session.cert = self._certificate
        session.proxies = {str(scheme): str(proxy) for scheme, proxy in (self._options.get("proxies") or {}).items()}
        client = hvac.Client(
            url=self.address,
            # hvac would take a token of the environment or the home directory for no token at all.
            token="",
            # It goes by the session's, but for False.
            verify=verify,
            allow_redirects=False,
            namespace=self.namespace,
            session=session,
            adapter=RawAdapter,
        )
        client.token = None
        return client

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        repeatable: bool,
        wrap_ttl: str | None = None,
        timeout: int | None = None,
    ) -> Answer:
        timeout = min(timeout or self._timeout, self._timeout)
        more: dict[str, Any] = {"timeout": (min(timeout, _CONNECT_TIMEOUT), timeout)}
        if body is not None:
            more["json"] = body
        try:
            response = self._send(self._repeatable if repeatable else self._once, method, path, more, wrap_ttl)
            content = response.json() if response.content else {}
        except requests.exceptions.JSONDecodeError:
            content = None
        except (requests.exceptions.RequestException, OSError, ValueError) as error:
            raise self.error(method, path, self._unreachable(error)) from None
        if isinstance(content, dict):
            return Answer(response.status_code, content)
        if response.status_code not in _BY_STATUS:
            raise self.error(
                method,
                path,
                f"what answers is not Vault or OpenBao (status {response.status_code}, no JSON): {_ADDRESS}",
            )
        return Answer(response.status_code, {})

    def _send(
        self, client: hvac.Client, method: str, path: str, more: Mapping[str, Any], wrap_ttl: str | None
    ) -> requests.Response:
        response: requests.Response = client.adapter.request(
            method, f"/v1/{path}", raise_exception=False, wrap_ttl=wrap_ttl, **more
        )
        hops = 0
        while response.is_redirect:
            # The token goes with it: only to where a standby sends us, the active node, and never in clear.
            there = urlsplit(str(response.next.url)) if response.next is not None else None
            if response.status_code not in (307, 308) or there is None or hops == _HOPS:
                where = there.netloc if there else "elsewhere"
                raise self.error(
                    method,
                    path,
                    f"it refers us to {where} (status {response.status_code}), where we don't go: {_ADDRESS}",
                )
            if there.scheme != "https" and self.address.startswith("https:"):
                raise self.error(
                    method, path, f"it refers us to {there.netloc} without TLS: its api_addr has to be an https address"
                )
            hops += 1
            response = client.session.send(response.next, timeout=more["timeout"], allow_redirects=False)
        return response

    def _unreachable(self, error: BaseException) -> str:
        if isinstance(error, (requests.exceptions.InvalidHeader, UnicodeError)):
            return "token or namespace holds a character that can't be sent: is it what it should be?"
        chain = list(_chain(error))
        certificate = next((link for link in chain if isinstance(link, ssl.SSLCertVerificationError)), None)
        if certificate is not None:
            return (
                f"its TLS certificate is not accepted: {certificate.verify_message}; say by ca_cert which CA is"
                " trusted, and use the name or address that the certificate is for"
            )
        if any(isinstance(link, ssl.SSLError) for link in chain):
            return "TLS fails: is it an https address, and a server that takes this client's certificate?"
        # After a retry, requests calls the second one a broken connection.
        if any(isinstance(link, (requests.exceptions.Timeout, urllib3.exceptions.ReadTimeoutError)) for link in chain):
            return f"no answer within {self._timeout} s (option timeout)"
        if any(isinstance(link, requests.exceptions.ProxyError) for link in chain):
            return "the proxy gives no answer: check the option proxies, or HTTPS_PROXY in the environment"
        request = getattr(error, "request", None)
        if request is not None and urlsplit(str(request.url)).netloc != urlsplit(self.address).netloc:
            # A standby sends writes to the active node, also to one that is dead.
            return (
                f"it refers us to {urlsplit(str(request.url)).netloc}, which gives no answer: the cluster has no active"
                " node, or that address can't be reached from here"
            )
        reason = next((link.strerror for link in chain if isinstance(link, OSError) and link.strerror), None)
        return f"no answer: {reason or 'the connection broke'}; is the address right and the server running?"

    def _denied(self) -> str:
        looked = self._request("GET", "auth/token/lookup-self", None, repeatable=True)
        if looked.status not in (200, 403):
            return f"permission denied, and it is not known why: the token can't be looked up (status {looked.status})"
        if looked.status == 403:
            return (
                "permission denied, also to look the token up: it has expired or was revoked, or it is not one of this"
                " server and namespace. Get a new one"
            )
        told = looked.body.get("data") or {}
        policies = ", ".join(map(str, (told.get("policies") or []) + (told.get("identity_policies") or []))) or "none"
        return (
            f"permission denied: the token is valid, but none of its policies ({policies}) allows this. The module"
            " vault_transit makes and shows the policies that are needed"
        )

    # The token

    def _login(self) -> None:
        method = self._options.get("auth_method") or "token"
        if method == "token":
            self._use(self._given_token())
            looked = self._request("GET", "auth/token/lookup-self", None, repeatable=True)
            if looked.status == 200:
                self._lease = _Lease.of(looked.body.get("data") or {}, own=False)
            elif looked.status != 403:
                # A token may be forbidden to look itself up; the first real request shows whether it is good.
                raise self.refusal(looked, "GET", "auth/token/lookup-self")
            return
        mount = (self._options.get("mount_point") or method).strip("/")
        path, body = f"auth/{mount}/login", self._credentials(method)
        if method == "userpass":
            path = f"{path}/{quote(body.pop('username'), safe='')}"
        # Not repeated: a secret id may be good for one login only.
        answer = self._request("POST", path, body, repeatable=False)
        if answer.status >= 400:
            if answer.status in _BY_STATUS:
                raise self.refusal(answer, "POST", path, body)
            words = _quotable(answer.errors, body)
            raise self.error(
                "POST",
                path,
                f"login by {method} is refused (status {answer.status}{words}): check the credentials, the role, and the"
                " auth mount's mount_point",
            )
        auth = answer.body.get("auth") or {}
        if not auth.get("client_token"):
            raise self.error("POST", path, f"login by {method} gave no token")
        self._use(str(auth["client_token"]))
        self._lease = _Lease.of(auth, own=True)

    def _use(self, token: str) -> None:
        self._repeatable.token = self._once.token = token

    def _keep_alive(self) -> None:
        with self._lock:
            if not self._lease.is_aging():
                return
            own = self._lease.own
            if self._lease.renewable:
                answer = self._request("POST", "auth/token/renew-self", {}, repeatable=True)
                left = self._lease.left()
                if answer.status == 200:
                    self._lease = _Lease.of(answer.body.get("auth") or {}, own)
                    if self._lease.left() > left + 1:
                        return
                # At its maximum life: no use in asking again.
                self._lease = _Lease(self._lease.ends, self._lease.life, False, own)
            if own:
                self._login_again()
            else:
                self._lease = _Lease(None, 0, False)

    def _login_again(self) -> None:
        spent = self._once.token
        try:
            self._login()
        except HostsealError:
            if self._lease.left() <= 0:
                raise
            # The rest of its life may be enough; what logs in may be good for one time, so it is not tried again.
            self._lease = _Lease(None, 0, False, own=True)
        else:
            # Revoked at the end: another thread may be in the midst of a request with it.
            self._spent.append(spent)

    def _given_token(self) -> str:
        token = self._options.get("token")
        if not token:
            folder = self._options.get("token_path") or os.path.expanduser("~")
            path = os.path.join(folder, self._options.get("token_file") or ".vault-token")
            if not os.path.exists(path):
                raise HostsealError(
                    f"no Vault token: give token, VAULT_TOKEN or the file {path}, or another auth_method"
                )
            token = file_text("token_file", path)
        return str(token).strip()

    def _credentials(self, method: str) -> dict[str, str]:
        if method == "approle":
            return {"role_id": self._need("role_id", method), "secret_id": self._need("secret_id", method)}
        if method == "jwt":
            return {"role": self._need("role_id", method), "jwt": self._need("jwt", method)}
        if method == "userpass":
            return {"username": self._need("username", method), "password": self._need("password", method)}
        self._need("cert_auth_public_key", method)
        return {"name": self._options["role_id"]} if self._options.get("role_id") else {}

    def _need(self, name: str, method: str) -> str:
        value = self._options.get(name)
        path = self._options.get(f"{name}_file")
        if not value and path:
            value = file_text(f"{name}_file", path).strip()
        if not value:
            raise HostsealError(f"auth_method {method} needs {name}{f' or {name}_file' if _has_file(name) else ''}")
        return str(value)


_BACKOFF: dict[str, Any] = {
    "backoff_factor": 0.25,
    "backoff_max": _MAX_BACKOFF,
    "backoff_jitter": 0.1,
    "allowed_methods": None,
    # A certificate does not become better.
    "other": 0,
    # A server may ask for hours.
    "respect_retry_after_header": False,
    "raise_on_status": False,
}
_ADDRESS = "is the address right, with https or without, and does nothing stand in between?"
_BY_STATUS = {
    412: "the server has not caught up with its own last write: run again",
    413: "the request is larger than the server takes",
    429: "the server limits the rate of requests, also after waiting: run again later, or ask for a larger quota",
    500: "the server reports an internal error: its log says more",
    501: "the server is not initialised: run 'bao operator init' or 'vault operator init'",
    502: "a proxy in front of the server gets no answer from it",
    503: "the server is sealed or in maintenance: unseal it",
    504: "a proxy in front of the server waits too long for it",
}
_KNOWN = (
    ("active cluster node not found", "the cluster has no active node: it has lost its leader or is being restarted"),
    ("node not active", "the cluster has no active node: it has lost its leader or is being restarted"),
    ("is sealed", "the server is sealed: unseal it"),
    ("encryption key not found", "there is no such key: it was deleted, or key name or engine_mount_point is another"),
    ("signing key not found", "there is no such key: it was deleted, or key name or engine_mount_point is another"),
    ("no handler for route", "nothing is mounted there: check engine_mount_point and namespace"),
    ("request body too large", "the request is larger than the server takes"),
    (
        "string value exceeds allowed length",
        # HashiCorp's, whose default takes 768 KiB in base64.
        "a value is longer than the server takes: raise max_json_string_value_length of its listener",
    ),
    ("high complexity", "the server takes fewer items in a request than are sent"),
)


@dataclass(frozen=True)
class _Lease:
    """A token's life: when it ends (time.monotonic, None for never), how long it was, and whose it is."""

    ends: float | None
    life: float
    renewable: bool
    own: bool = False

    @classmethod
    def of(cls, told: Mapping[str, Any], own: bool) -> _Lease:
        """From the auth of a login or renewal, or the data of a lookup."""
        life = float(told.get("lease_duration") or told.get("ttl") or 0)
        whole = max(life, float(told.get("period") or told.get("creation_ttl") or 0))
        return cls(time.monotonic() + life if life else None, whole, bool(told.get("renewable")), own)

    def left(self) -> float:
        """Seconds."""
        return 0 if self.ends is None else self.ends - time.monotonic()

    def is_aging(self) -> bool:
        """Whether less than half of it is left."""
        return self.ends is not None and self.left() < self.life / 2


def _address(options: Mapping[str, Any]) -> str:
    url = str(options.get("url") or "").rstrip("/")
    if not url:
        raise HostsealError("the backend vault needs url, or the environment variable VAULT_ADDR")
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise HostsealError("url is not an address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise HostsealError(f"url {shorten(url)} is not an http or https address")
    if parts.username or parts.password:
        raise HostsealError("url holds a user name or password: those belong into the options of the auth method")
    if parts.scheme == "http" and host not in _LOCAL and options.get("validate_certs", True):
        raise HostsealError(
            f"url {shorten(url)} is not encrypted: use https; if the network in between is yours alone, say"
            " validate_certs: false"
        )
    return url


def _number(options: Mapping[str, Any], name: str, default: int, least: int) -> int:
    number = default if options.get(name) is None else int(options[name])
    if number < least:
        raise HostsealError(f"{name} {number} is less than {least}")
    return number


def _files(options: Mapping[str, Any]) -> str | tuple[str, str] | None:
    """The client's certificate as requests takes it. It and ca_cert are read here once, for a message that says which."""
    names = ("ca_cert", "cert_auth_public_key", "cert_auth_private_key")
    ca_cert, certificate, key = (options.get(name) or None for name in names)
    for name, path in zip(names, (ca_cert, certificate, key), strict=True):
        if path and not os.path.exists(path):
            raise HostsealError(f"{name} {path!r} does not exist on the control node")
    try:
        if ca_cert and not os.path.isdir(ca_cert):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_cert)
    except OSError:
        raise HostsealError(f"ca_cert {ca_cert!r} can't be read, or holds no certificate in PEM") from None
    if not certificate:
        return None
    try:
        # An empty passphrase, else OpenSSL would ask whoever sits there.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except OSError:
        raise HostsealError(
            f"cert_auth_public_key {certificate!r} and cert_auth_private_key {key!r} can't be read, are no PEM, do not"
            " belong together, or the key has a passphrase"
        ) from None
    return (certificate, key) if key else certificate


def _has_file(name: str) -> bool:
    return name in ("secret_id", "password", "jwt")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """ERROR and what it was made from: urllib3 keeps it in arguments and attributes."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if isinstance(link, BaseException) and link not in seen:
            seen.append(link)
            yield link
            waiting += [*link.args, getattr(link, "reason", None), link.__cause__, link.__context__]


def _quotable(errors: list[str], body: Any) -> str:
    """The server's own words, unless they repeat something of the request."""
    text = " ".join(" ".join(errors).split())
    if not text or any(len(leaf) > 3 and leaf in text for leaf in _leaves(body)):
        return ""
    return f": {text[:300]}"


def _leaves(body: Any) -> Iterator[str]:
    if isinstance(body, Mapping):
        for value in body.values():
            yield from _leaves(value)
    elif isinstance(body, (list, tuple)):
        for value in body:
            yield from _leaves(value)
    elif isinstance(body, str):
        yield body
