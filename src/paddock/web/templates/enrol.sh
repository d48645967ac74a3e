#!/bin/sh
# Installs the Paddock agent of this machine from @SERVER@, and enrols it. The server made this script for you to read:
#
#   curl ... @SERVER@/enrol | sh -s -- CODE [OPTION...]
#
# CODE is what `paddock host add NAME` prints; it is used once. OPTION is any of `paddock agent configure`: --base-path
# DIR, --user NAME, --skills LIST, --no-service, --root DIR... Again is no harm: what is right already is not touched.
set -eu

server=@SERVER@
agents=@AGENTS@
# What the server's certificate is known by; both empty where an authority that this machine trusts has signed it.
certificate=@CERTIFICATE@
key=@KEY@
insecure=@INSECURE@
# Name and SHA-256 of each file that it offers.
offers='@OFFERS@'

say() { printf 'paddock: %s\n' "$*" >&2; }
die() {
    say "$1"
    [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

fetch() {
    if [ -n "$key" ]; then
        # The key is checked whoever has signed it, so nobody else has to vouch for it.
        curl -fsS --insecure --pinnedpubkey "$key" -o "$2" -- "$1"
    else
        curl -fsS -o "$2" -- "$1"
    fi
}

sha256() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum <"$1" | cut -d ' ' -f 1
    else
        openssl dgst -sha256 <"$1" | sed 's/.*= *//'
    fi
}

find_python() {
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -I -c 'import sys, ssl, sqlite3; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v -- "$candidate"
            return
        fi
    done
}

# Line by line until the end, and nothing before it: half a script does nothing.
main() {
    code=
    case ${1:-} in
        '' | -*) ;;
        *)
            code=$1
            shift
            ;;
    esac
    command -v curl >/dev/null 2>&1 || die "curl: is not installed" "install it; on Debian: apt-get install curl"
    python=$(find_python)
    isolated=-I
    file=paddock-agent.pyz
    if [ -z "$python" ]; then
        # A script, which unpacks a Python of its own.
        python="sh" isolated=
        file=paddock-agent-$(uname -m)
    fi
    wanted=$(printf '%s\n' "$offers" | sed -n "s/^$file //p")
    [ -n "$wanted" ] || die "no Python 3.11 with ssl and sqlite3 here, and $server has no $file" \
        "install python3, or on a machine of this kind: paddock agent bundle --standalone; docs/agent.md says where to put it"

    umask 077
    temporary=$(mktemp -d)
    trap 'rm -rf -- "$temporary"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    say "fetching $server/agent/$file"
    fetch "$server/agent/$file" "$temporary/$file" || die "$server/agent/$file: not fetched"
    [ "$(sha256 "$temporary/$file")" = "$wanted" ] || die "$file: is not what $server announced" "try again"

    mkdir -- "$temporary/cache"
    export PADDOCK_AGENT_CACHE="$temporary/cache"
    set -- --url "$agents" "$@"
    [ -z "$certificate" ] || set -- --pin "$certificate" "$@"
    [ -z "$insecure" ] || set -- --insecure "$@"
    umask 022
    configure "$@" || exit $?
    finish
}

# The code goes by a pipe: it stands in nobody's list of processes for longer than this script runs.
configure() {
    if [ -n "$code" ]; then
        told=$(printf '%s\n' "$code" |
            "$python" ${isolated:+"$isolated"} "$temporary/$file" configure "$@" --code-file -)
    else
        told=$("$python" ${isolated:+"$isolated"} "$temporary/$file" configure "$@")
    fi
    printf '%s\n' "$told"
}

# What remains to be done is the last line that `configure` said.
finish() {
    case $told in
        *'then: systemctl restart paddock-agent')
            systemctl restart paddock-agent
            say "the agent runs: systemctl status paddock-agent"
            ;;
        *'then: systemctl start paddock-agent')
            systemctl start paddock-agent
            say "the agent runs: systemctl status paddock-agent"
            ;;
    esac
}

main "$@"
