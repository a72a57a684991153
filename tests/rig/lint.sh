#!/usr/bin/env bash
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Everything that reads the code. All checks run, then the failed ones are named.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
export PATH=$PWD/build/venv/bin:$PATH
export ANSIBLE_COLLECTIONS_PATH=$PWD/build/sym:$PWD/build/collections ANSIBLE_HOME=$PWD/build/ansible

failed=()
check() {
    local name=$1
    shift
    printf '\n--- %s\n' "$name"
    "$@" || failed+=("$name")
}

# As Python sees it: the collection by its full name, the agent as in its zipapp, beside the two files that it shares.
types() {
    local status=0 tree=build/types collection=build/sym/ansible_collections/hostseal/secrets
    rm -rf "$tree"
    mkdir -p "$tree/hostseald"
    ln -s "$PWD"/roles/host_agent/files/hostseald/*.py "$PWD"/plugins/module_utils/{_agent_client,_envelope,_jose,_manifest,_model,_proof}.py "$tree/hostseald"
    MYPYPATH=$tree mypy -p hostseald || status=1
    MYPYPATH=build/sym mypy "$collection"/plugins/{module_utils,plugin_utils,action,filter} || status=1
    MYPYPATH=$tree:build/sym mypy tests/faults || status=1
    mypy tests/rig tests/matrix tests/release tests/integration/conftest.py tests/integration/vault/conftest.py || status=1
    return $status
}

shells() {
    tests/rig/worktree.sh |
        xargs -0 grep -lE --binary-files=without-match '^#!.*\b(ba)?sh\b' |
        xargs -r shellcheck
}

# These take as long as all others together, on one core. A process group of its own, which an interrupt ends too.
beside=build/lint-beside.log
set -m
(
    check ansible-lint ansible-lint --offline --nocolor
    check galaxy-importer python -m tests.matrix galaxy-importer
    [ ${#failed[@]} -eq 0 ]
) >"$beside" 2>&1 &
lane=$!
set +m
trap 'kill -- "-$lane" 2>/dev/null' EXIT

check 'ruff check' ruff check .
check 'ruff format' ruff format --check .
check mypy types
check yamllint yamllint --strict .
check shellcheck shells
check antsibull-docs antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=all .
check antsibull-changelog antsibull-changelog lint
check 'ansible-test sanity' tests/rig/sanity.sh
wait "$lane" || failed+=('ansible-lint or galaxy-importer')
cat "$beside"

if [ ${#failed[@]} -gt 0 ]; then
    printf '\nlint: failed: %s\n' "$(IFS=,; echo "${failed[*]}")" >&2
    exit 1
fi
printf '\nlint: all good\n'
