#!/usr/bin/env bash
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Make what the other targets need: Debian packages, build/venv, build/collections and the path that Ansible's tools
# want to find the collection at. Quick when nothing changed. HOSTSEAL_PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p build/sym/ansible_collections/hostseal

say() { printf 'setup: %s\n' "$*"; }

missing_packages() {
    dpkg-query -W busybox-static >/dev/null 2>&1 || echo busybox-static
    command -v git >/dev/null || echo git
    [ -x /usr/sbin/mariadbd ] || echo mariadb-server-core
    command -v mariadb-dump >/dev/null || echo mariadb-client
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || echo postgresql
    command -v ip >/dev/null || echo iproute2
    command -v iptables >/dev/null || echo iptables
    command -v mmdebstrap >/dev/null || echo mmdebstrap
    command -v shellcheck >/dev/null || echo shellcheck
    # An engine that is there is used as it is.
    docker version >/dev/null 2>&1 || command -v dockerd >/dev/null || echo docker.io
    command -v docker >/dev/null || { apt-cache show docker-cli >/dev/null 2>&1 && echo docker-cli; } || true
    real_python >/dev/null || echo python3-venv
}

# The newest Python that we know, with venv. Never a pyenv shim: ansible-test can't use one. Nor one of a virtual
# environment, which may be the very one to be made.
real_python() {
    local version candidate
    if [ -n "${HOSTSEAL_PYTHON:-}" ]; then
        echo "$HOSTSEAL_PYTHON"
        return
    fi
    for version in 3.13 3.12 3.11; do
        for candidate in $(type -ap "python$version") "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python"$version"; do
            case $candidate in */shims/*) continue ;; esac
            if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.prefix != sys.base_prefix)' 2>/dev/null; then
                echo "$candidate"
                return
            fi
        done
    done
    return 1
}

# Packages start what they bring, and PostgreSQL's makes a cluster: tests make and start servers of their own.
install() {
    local policy=/usr/sbin/policy-rc.d settings=/etc/postgresql-common/createcluster.d
    as_root mkdir -p "$settings"
    echo 'create_main_cluster = false' | as_root tee "$settings/hostseal-tests.conf" >/dev/null
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        # shellcheck disable=SC2064  # the name is of now
        trap "as_root rm -f $policy" EXIT
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >build/apt.log
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

packages=$(missing_packages)
if [ -n "$packages" ]; then
    # shellcheck disable=SC2086  # one word per package
    say "installing" $packages
    as_root apt-get update -qq
    # shellcheck disable=SC2086  # here too
    install $packages
fi

python=$(real_python) || { say "no Python 3.11, 3.12 or 3.13 with venv found" >&2; exit 1; }
wanted=$({ echo "$python"; "$python" -V; cat requirements/dev.txt requirements/constraints.txt; } | sha256sum)
if [ "$(cat build/venv/stamp 2>/dev/null)" != "$wanted" ]; then
    say "build/venv with $("$python" -V)"
    # Another interpreter: from nothing. Other requirements: in place, others may be using it.
    [ "$(cat build/venv/python 2>/dev/null)" = "$python" ] || rm -rf build/venv
    "$python" -m venv build/venv
    build/venv/bin/python -m pip install --quiet -r requirements/dev.txt -c requirements/constraints.txt
    printf '%s\n' "$python" >build/venv/python
    printf '%s\n' "$wanted" >build/venv/stamp
fi

build/venv/bin/python tests/rig/unpack_collections.py
# The tools want collections at ansible_collections/NAMESPACE/NAME; the checkout may lie anywhere.
ln -sfn "$PWD" build/sym/ansible_collections/hostseal/secrets
