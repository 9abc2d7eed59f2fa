#!/usr/bin/env bash
# Everything there is to do with a checkout of aiopypay. Needs nothing but Python 3.11 or newer.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

usage() {
    cat <<'USAGE'
Usage: ./run.sh COMMAND

  prod                          serve; makes .venv and starts the embedded PostgreSQL where that is needed
  test [pytest arguments]       run the tests, on a PostgreSQL of their own
  dev                           as prod, with debug logging and restart on change
  db start|stop|status|psql     the embedded PostgreSQL alone; psql takes psql's arguments
  bench [arguments]             measure it against plain SQL and bare aiohttp; --help tells the arguments
  lint                          ruff, mypy, the import rules, and sqlfluff on the migrations
  lock [pip-compile arguments]  make the requirements files anew from setup.cfg (--upgrade for newer versions)
  cleanup                       remove what the others made, the data too, after asking

Settings are read from the environment and from the file .env; docs/OPERATING.md lists them.
USAGE
}

fail() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 1
}

# The first Python that is new enough. A pyenv shim may be on PATH and still run nothing.
find_python() {
    local candidate
    for candidate in python3 python3.11 python3.12 python3.13 python3.14 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, and $(python3 --version 2>/dev/null || echo 'no Python') was found:" \
        "install one, for example with: apt-get install python3 python3-venv"
}

venv_works() {
    [ -e .venv/.made ] && .venv/bin/python -c 'import pip' 2>/dev/null
}

make_venv() {
    local python
    python=$(find_python)
    if "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        "$python" -m venv --clear .venv || fail "Could not make $PWD/.venv (see above)."
    elif command -v virtualenv >/dev/null; then
        virtualenv --quiet --clear --python "$python" .venv || fail "Could not make $PWD/.venv (see above)."
    else
        fail "$("$python" --version) has no venv module: install it, for example with: apt-get install python3-venv"
    fi
    touch .venv/.made
}

installed() {
    [ -e ".venv/.installed-$1" ] && cmp -s ".venv/.installed-$1" "$1" && venv_works
}

# The stamp is a copy of the lock file, written last: an interrupted set-up has none and is done again.
install() {
    venv_works || make_venv
    rm -f ".venv/.installed-$1"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r "$1" ||
        fail "Could not install $1 (see above)."
    cp "$1" ".venv/.installed-$1"
}

# Installs a lock file unless it is. A second run.sh waits meanwhile; pip inherits the lock and outlives no one's turn.
ensure() {
    installed "$1" && return
    [ -w . ] || fail "$PWD is not writable, and $1 is to be installed in $PWD/.venv: chown it, or run as its owner."
    exec 9>>.venv.lock || fail "$PWD/.venv.lock cannot be written."
    if command -v flock >/dev/null && ! flock --nonblock 9; then
        echo "run.sh: waiting for another run.sh to finish its set-up" >&2
        flock 9
    fi
    if ! installed "$1"; then
        echo "run.sh: installing $1 in .venv" >&2
        install "$1"
    fi
    exec 9>&-
}

# The cluster that is there, if any, needs programs of its own version.
postgresql_found() {
    local version_file="${APP_DATA_DIR:-var}/postgres/PG_VERSION"
    # shellcheck disable=SC2046  # no cluster, no argument
    .venv/bin/python -c 'import sys; from aiopypay.embedded.binaries import find_binaries; find_binaries(*map(int, sys.argv[1:]))' \
        $(cat "$version_file" 2>/dev/null) 2>/dev/null
}

ensure_postgresql() {
    [ -e .venv/.installed-requirements-embedded.txt ] || ! postgresql_found || return 0
    ensure requirements-embedded.txt
}

prod() {
    ensure requirements.txt
    ensure_postgresql
    exec .venv/bin/python -m aiopypay serve "$@"
}

tests() {
    ensure requirements-dev.txt
    ensure_postgresql
    # All of them take four processes, file by file, the longest first; what is asked for runs as it is asked.
    [ "$#" -gt 0 ] || set -- -n 4 --dist loadfile --no-loadscope-reorder
    exec .venv/bin/python -m pytest "$@"
}

dev() {
    ensure requirements-dev.txt
    ensure_postgresql
    # Time for a graceful stop before it is killed.
    exec .venv/bin/python -m watchfiles --sigint-timeout 30 '.venv/bin/python -m aiopypay serve --debug' aiopypay migrations
}

db() {
    ensure requirements.txt
    ensure_postgresql
    exec .venv/bin/python -m aiopypay db "$@"
}

ensure_wrk() {
    command -v wrk >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "run.sh: installing wrk" >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends wrk; } >&2 || true
    fi
    command -v wrk >/dev/null ||
        fail "wrk, the load generator, is missing: install it, for example with: apt-get install wrk"
}

bench() {
    ensure requirements-dev.txt
    ensure_postgresql
    ensure_wrk
    exec .venv/bin/python -m bench "$@"
}

lint() {
    ensure requirements-dev.txt
    local failed=0
    check() {
        echo "== $*"
        "$@" || failed=1
    }
    check .venv/bin/python -m ruff check .
    check .venv/bin/python -m ruff format --check .
    check .venv/bin/python -m mypy
    check .venv/bin/lint-imports --config setup.cfg
    check .venv/bin/python -m sqlfluff lint --disable-progress-bar migrations
    return "$failed"
}

# Made with the oldest Python that is supported: newer ones need no package more, and may need fewer.
lock() {
    local python tools
    python=$(command -v python3.11) || fail "The lock files are made with Python 3.11, which is missing here."
    tools=$(mktemp -d)
    # shellcheck disable=SC2064  # the directory of now is meant
    trap "rm -rf '$tools' aiopypay.egg-info" EXIT
    "$python" -m venv "$tools"
    "$tools/bin/python" -m pip install -qq --disable-pip-version-check 'pip-tools>=7.5'
    compile() {
        "$tools/bin/python" -m piptools compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
            --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options "$@"
    }
    compile "$@" --output-file requirements.txt setup.cfg
    compile "$@" --constraint requirements.txt --extra test --extra lint --extra dev \
        --output-file requirements-dev.txt setup.cfg
    "$tools/bin/python" -c 'import configparser
setup = configparser.ConfigParser()
setup.read("setup.cfg")
print(setup["options.extras_require"]["embedded"].strip())' >"$tools/embedded.in"
    compile "$@" --constraint requirements-dev.txt --no-annotate \
        --output-file requirements-embedded.txt "$tools/embedded.in"
}

data_directory() {
    if venv_works && [ -e .venv/.installed-requirements.txt ]; then
        .venv/bin/python -c 'from aiopypay.settings import Settings, read_environment
print(Settings.from_environment(read_environment()).data_dir.resolve())'
    else
        realpath -m -- "${APP_DATA_DIR:-var}"
    fi
}

cleanup() {
    local answer data
    data=$(data_directory) || fail "The settings are bad (see above)."
    case "$PWD/" in
    "$data"/*) fail "APP_DATA_DIR is $data, which holds this checkout too: remove what you want by hand." ;;
    esac
    [ "$data" != / ] && [ "$data" != "${HOME:-/}" ] || fail "APP_DATA_DIR is $data: remove what you want by hand."
    printf 'Remove %s\nand %s WITH ALL DATA IN IT? [y/N] ' "$PWD/.venv" "$data"
    read -r answer || true
    [ "$answer" = y ] || [ "$answer" = yes ] || fail "Nothing was removed."
    if [ -e "$data/postgres/postmaster.pid" ]; then
        ensure requirements.txt
        .venv/bin/python -m aiopypay db stop || fail "Nothing was removed: PostgreSQL still runs."
    fi
    rm -rf -- "$data" .venv .venv.lock .mypy_cache .ruff_cache .pytest_cache .grimp_cache .hypothesis .import_linter_cache \
        aiopypay.egg-info build tests/clients/node_modules
    echo "Removed."
}

command=${1:-}
shift || true
case "$command" in
prod | dev | db | bench | lint | lock | cleanup) "$command" "$@" ;;
test) tests "$@" ;;
help | -h | --help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
