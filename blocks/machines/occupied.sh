# Whether a process works in the job directory $1: supervisor and trainer hold its lock.
occupied() {
    [ -f "$1/.lock" ] || return 1
    if command -v flock >/dev/null 2>&1; then
        flock -s -n "$1/.lock" true
        [ $? -eq 1 ]
    else
        # "1: FLOCK  ADVISORY  WRITE 4711 fe:00:12345 0 EOF": device and inode
        set -- "$(ls -i "$1/.lock")"
        set -- $1
        grep -q "FLOCK .*:$1 " /proc/locks
    fi
}
