# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Requests to a server by the standard library: hosts have no other client. Every one has a deadline and a size."""

from __future__ import annotations

import http.client
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ._model import HostsealError, shorten


class HttpsError(HostsealError):
    """The server did not answer, or not as it should; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What the server answered, whatever the STATUS."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def __repr__(self) -> str:
        return f"Answer({self.status})"


class HttpsClient:
    """ADDRESS is that of WHAT answers there. No redirect is followed and no proxy of the environment used."""

    def __init__(self, what: str, address: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(address)
        try:
            port = parts.port or 443
        except ValueError:
            port = 0
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.username or not port:
            raise HttpsError(f"{what}'s address {shorten(address)} is not like https://server.example.com:8443")
        self.name = f"{what} at {address}"
        self._what = what
        self._host, self._port = parts.hostname, port
        self._path = parts.path.rstrip("/")
        self._context = context

    def ask(
        self,
        method: str,
        path: str,
        deadline: float,
        most: int,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask PATH, which is below the address; MOST bytes are read. DEADLINE is one of time.monotonic()."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise self._slow()
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=remaining, context=self._context)
        try:
            connection.request(method, self._path + path, body, dict(headers or {}))
            response = connection.getresponse()
            data = bytearray()
            while len(data) <= most and (more := response.read1(1 << 16)):
                data += more
                if time.monotonic() > deadline:
                    raise self._slow()
            if len(data) > most:
                raise HttpsError(f"{self.name} answers with more than {most} bytes: is it the right address?")
            return Answer(response.status, response.headers, bytes(data))
        except ssl.SSLError as error:
            # An SSLCertVerificationError has the reason as a number's text of OpenSSL's own.
            why = getattr(error, "verify_message", None) or error.reason or type(error).__name__
            raise HttpsError(f"no trusted connection with {self.name}: {why}") from None
        except TimeoutError:  # also socket.timeout, from Python 3.10 on
            raise self._slow() from None
        except (OSError, http.client.HTTPException) as error:
            if type(error).__name__ == "timeout":
                raise self._slow() from None
            why = getattr(error, "strerror", None) or type(error).__name__
            raise HttpsError(f"{self.name} can't be reached: {why}") from None
        finally:
            connection.close()

    def _slow(self) -> HttpsError:
        return HttpsError(f"{self.name} did not answer in time")


def tls_context(folder: str, stem: str) -> ssl.SSLContext:
    """Trust and identity from FOLDER: STEM-ca.pem (without it those of the host), STEM-client.pem and STEM-client.key.

    OSError when they can't be read.
    """
    authority, certificate, key = (
        os.path.join(folder, f"{stem}-{name}") for name in ("ca.pem", "client.pem", "client.key")
    )
    context = ssl.create_default_context(cafile=authority if os.path.exists(authority) else None)
    if os.path.exists(certificate):
        context.load_cert_chain(certificate, key)
    return context
