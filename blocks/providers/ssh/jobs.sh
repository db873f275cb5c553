# The job directories of this host, each with the record of its instance.
umask 077
ours=${HOME:?}/.training-orchestrator

# Prints the record of $1, or without a name those of all. A record has 4 KiB at most.
records() {
    for job in "$ours"/jobs/${1:-to-*}; do
        name=${job##*/}
        case $name in *[!a-z0-9-]*) continue ;; esac
        [ -d "$job" ] || continue
        printf '@job %s ' "$name"
        [ ! -f "$job/instance.json" ] || head -c 4096 "$job/instance.json" | tr '\n\r' '  '
        printf '\n'
    done 2>/dev/null | head -n 300
}

# Makes the directory $1 with the record $2.
make() {
    mkdir -p -- "$ours/jobs/$1" && chmod 700 "$ours" "$ours/jobs" "$ours/jobs/$1" &&
        printf '%s\n' "$2" >"$ours/jobs/$1/.instance.$$" &&
        mv -f -- "$ours/jobs/$1/.instance.$$" "$ours/jobs/$1/instance.json"
}
