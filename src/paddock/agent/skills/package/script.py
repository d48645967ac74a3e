"""The task that asks a package manager: waits for its lock, lists before, acts, lists after.

It is a script of plain POSIX shell under a keeper, so that it goes on while the agent is away. What it found lies in
files of the task's directory: `before` and `after`, and `waiting` while others hold the lock.
"""

import shlex
from collections.abc import Iterable

from paddock.agent.skills.package.tool import Among, Step, Tool, Wish

BEFORE, AFTER, WAITING = "before", "after", "waiting"

_FRAME = """
set -u
here={here} most={most} pause={pause}
waited=0 told=0 acted= holder=
tab=$(printf '\\t')

listing() {{ {listing}
}}
known() {{ {known}
}}
locked() {{ {locked}
}}
done_well() {{ {done}
}}
repair() {{ {repair}
}}

# Whether a process holds a lock on one of these files; the kernel knows, and nothing is left behind by asking.
held() {{
    for file; do
        [ -e "$file" ] || continue
        inode=$(stat -c %i "$file")
        while read -r _ _ _ _ owner place _; do
            case $place in *:"$inode") holder=" (process $owner)" && return 0 ;; esac
        done </proc/locks
    done
    return 1
}}

note_before() {{
    listing >"$here/before.new" && mv "$here/before.new" "$here/before"
    known | while IFS=$tab read -r name arch _; do
        printf '%s\\n%s{joint}%s\\n' "$name" "$name" "$arch"
    done >"$here/names"
}}

has() {{ grep -qxF -e "$1" "$here/names"; }}

finish() {{
    listing >"$here/after.new" && mv "$here/after.new" "$here/after"
    exit "$1"
}}

# Others hold the lock. The file `waiting` says so to whoever reads how it ended.
wait_for_others() {{
    : >"$here/waiting"
    if [ "$waited" -ge "$told" ]; then
        echo "{program}: others hold its lock$holder, waiting: $waited of at most $most s"
        told=$((told + 10))
    fi
    [ "$waited" -lt "$most" ] || exit 75
    sleep "$pause"
    waited=$((waited + pause))
}}

begin() {{
    while locked 0; do wait_for_others; done
    rm -f "$here/waiting"
}}

run() {{
    while :; do
        begin
        "$@" && code=0 || code=$?
        if done_well "$code"; then
            acted=1
            return
        fi
        locked "$code" || finish "$code"
        wait_for_others
        [ -n "$acted" ] || note_before
    done
}}

begin
run repair
acted=
note_before
{steps}
finish 0
"""


def write(tool: Tool, wish: Wish, *, most: int) -> str:
    """The script for one wish; `most` is how many seconds others may hold the lock."""
    return _FRAME.format(
        here=shlex.quote(str(wish.directory)),
        most=most,
        pause=tool.pause,
        program=tool.program,
        joint=tool.joint,
        listing=tool.listing(wish.root),
        known=tool.known(wish) if tool.known else "listing",
        locked=tool.locked(wish.root),
        done=tool.done,
        repair=tool.repair(wish.root),
        steps="\n".join(_spell(step) for step in tool.steps(wish)),
    )


def _spell(step: Step) -> str:
    words = _join(step.words)
    if step.names is None:
        return f"run {words}"
    match step.among:
        case Among.ALL:
            return f"run {words} {_join(step.names)}"
        case Among.ABSENT:
            condition = 'has "$name" ||'
        case Among.PRESENT:
            condition = '! has "$name" ||'
    chosen = f'for name in {_join(step.names)}; do {condition} set -- "$@" "$name"; done'
    return f'set --\n{chosen}\n[ $# -eq 0 ] || run {words} "$@"'


def _join(words: Iterable[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
