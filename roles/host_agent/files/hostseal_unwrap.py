# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Exchange the wrapped Vault token of this container for the token inside, once per start of the container.

For use in containers, with Python 3.9 or newer and nothing else. Waits for the file, checks that the token comes from the
request that it should come from, unwraps it, and writes what was inside to standard output or to a file.

Exit status: 0 done, 1 Vault can't be reached or an error, 2 wrong arguments, 3 the token was used already or has expired,
4 it was wrapped by another request than it should. 3 before the token's time is over, and 4, mean that somebody else had
it: both are reported to the host's agent, by the socket "..report" beside the file.
"""

import argparse
import contextlib
import http.client
import json
import os
import socket
import ssl
import sys
import time
from urllib.parse import urlsplit

UNREACHABLE, USED, FOREIGN = 1, 3, 4


class Failure(Exception):
    """STATUS is the exit status; the text holds no token."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def wait_for(path, deadline):
    """The wrapped token, as soon as the file is there."""
    while True:
        try:
            with open(path, encoding="ascii") as file:
                return file.read().strip()
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise Failure(UNREACHABLE, f"{path} did not appear in time: see the host's audit log") from None
        time.sleep(0.1)


class Vault:
    """ADDRESS as in VAULT_ADDR; no redirect is followed."""

    def __init__(self, address, ca_cert, namespace):
        parts = urlsplit(address or "")
        if parts.scheme != "https" or not parts.hostname:
            raise Failure(2, "give Vault's https address as --address or VAULT_ADDR")
        self.place = (parts.hostname, parts.port or 443)
        self.prefix = parts.path.rstrip("/")
        try:
            self.context = ssl.create_default_context(cafile=ca_cert or None)
        except OSError as error:
            raise Failure(2, f"the CA certificates {ca_cert} can't be read: {error.strerror}") from None
        self.headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if namespace:
            self.headers["X-Vault-Namespace"] = namespace

    def post(self, path, body, token=None):
        """Status and JSON body."""
        headers = {**self.headers, **({"X-Vault-Token": token} if token else {})}
        connection = http.client.HTTPSConnection(*self.place, timeout=20, context=self.context)
        try:
            connection.request("POST", f"{self.prefix}/v1/{path}", json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or type(error).__name__
            raise Failure(UNREACHABLE, f"Vault at {self.place[0]}:{self.place[1]} can't be reached: {why}") from None
        finally:
            connection.close()


def looked_up(vault, token, deadline):
    """Which request wrapped the token. This may be asked again and again, so Vault gets time to come up."""
    while True:
        try:
            status, body = vault.post("sys/wrapping/lookup", {"token": token})
            if status == 200:
                return body["data"]["creation_path"]
            if status == 400:
                raise Failure(USED, "the wrapped token was used already, or has expired")
            failure = Failure(UNREACHABLE, f"Vault refuses to look the token up (status {status})")
        except Failure as error:
            if error.status != UNREACHABLE:
                raise
            failure = error
        if time.monotonic() > deadline:
            raise failure
        time.sleep(1)


def unwrap(vault, token):
    """The token inside."""
    status, body = vault.post("sys/wrapping/unwrap", {}, token)
    if status == 200:
        return body["auth"]["client_token"]
    if status in (400, 403):
        raise Failure(USED, "the wrapped token was used already, or has expired")
    raise Failure(UNREACHABLE, f"Vault refuses to unwrap the token (status {status})")


def report(path, word):
    """Tell the host's agent."""
    place = os.path.join(os.path.dirname(path) or ".", "..report")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(5)
            channel.sendto(word.encode(), place)
    except OSError as error:
        sys.stderr.write(f"hostseal-unwrap: the host could not be told: {error.strerror}\n")


def write(path, token):
    """Put the token into a file that the own user alone can read."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(token)


def main():
    parser = argparse.ArgumentParser(prog="hostseal-unwrap", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("role", help="ENVIRONMENT.ROLE whose token it must be, like prod.web")
    parser.add_argument("--file", default="/run/secrets/vault-token", help="the wrapped token (%(default)s)")
    parser.add_argument("--output", help="write the token to this file, on a memory file system; else it is printed")
    parser.add_argument(
        "--wait", type=float, default=60, help="seconds to wait for the file and for Vault (%(default)s)"
    )
    parser.add_argument("--address", default=os.environ.get("VAULT_ADDR"), help="Vault's address (VAULT_ADDR)")
    parser.add_argument("--ca-cert", default=os.environ.get("VAULT_CACERT"), help="its CA certificates (VAULT_CACERT)")
    parser.add_argument("--namespace", default=os.environ.get("VAULT_NAMESPACE"), help="VAULT_NAMESPACE")
    options = parser.parse_args()
    deadline = time.monotonic() + options.wait
    try:
        vault = Vault(options.address, options.ca_cert, options.namespace)
        wrapped = wait_for(options.file, deadline)
        path = looked_up(vault, wrapped, deadline)
        if path != f"auth/token/create/{options.role}":
            raise Failure(FOREIGN, f"the token was wrapped by a request to {path}: somebody has exchanged it")
        token = unwrap(vault, wrapped)
        if options.output:
            write(options.output, token)
        else:
            sys.stdout.write(f"{token}\n")
    except Failure as failure:
        sys.stderr.write(f"hostseal-unwrap: {failure}\n")
        if failure.status in (USED, FOREIGN):
            report(options.file, "used" if failure.status == USED else "foreign")
        return failure.status
    except (OSError, KeyError, TypeError) as error:
        sys.stderr.write(f"hostseal-unwrap: {getattr(error, 'strerror', None) or type(error).__name__}\n")
        return UNREACHABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
