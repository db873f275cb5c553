# Ends this machine when its lease is no longer renewed; see sentinel.py. POSIX sh.
#
#     sh sentinel.sh BASE MARK GRACE_SECONDS AGAIN_SECONDS
#
# Time is counted from what we watched, by the seconds since the machine came up. The clock is
# never read, so it may jump; and a machine that was suspended is not late.

umask 077
cd / || exit 1
base=$1 mark=$2 grace=$3 again=$4
shutdown_command=$(cat "$base/shutdown_command") || exit 1
stat -c %i "$base/lease" >/dev/null || exit 1 # without stat no renewal would ever be seen
printf '%s %s\n' "$$" "$mark" >"$base/sentinel.pid.$$" || exit 1
mv -f "$base/sentinel.pid.$$" "$base/sentinel.pid" || exit 1

# The one that the file names is the sentinel, so a newer one takes over by writing it. Without
# the file we stay: deleting our folder does not stop the bill.
replaced() {
    read -r owner _ 2>/dev/null <"$base/sentinel.pid" || return 1
    [ "$owner" != "$$" ]
}

# Adds to `watched` what passed since the last call, at most a little more than one nap.
count() {
    before=$up
    read -r up _ 2>/dev/null </proc/uptime || up=$((before + nap))
    up=${up%%.*}
    passed=$((up - before))
    [ "$passed" -le $((nap + 5)) ] || passed=$((nap + 5))
    watched=$((watched + passed))
}

# The change time shows every touch, whatever the clock says. The leases of the jobs count
# too: on a machine that is shared, another run's may be the longer one.
leases() {
    stat -c '%n %i %z' "$base/lease" "$base"/jobs/*/lease 2>/dev/null
}

longest_term() {
    longest=0
    for lease in "$base/lease" "$base"/jobs/*/lease; do
        seconds=
        read -r seconds _ 2>/dev/null <"$lease"
        seconds=${seconds%%.*}
        case $seconds in '' | 0* | *[!0-9]* | ??????????*) continue ;; esac
        [ "$seconds" -le "$longest" ] || longest=$seconds
    done
    [ "$longest" -eq 0 ] || term=$longest # leases that are gone change nothing
    nap=$((term / 20))
    [ "$nap" -ge 1 ] || nap=1
    [ "$nap" -le 15 ] || nap=15
}

# An earlier request to stop or to pause is left as it is.
ask_to_stop() {
    wanted='"desired"[[:space:]]*:[[:space:]]*"(stop|pause)"'
    grep -Eq "$wanted" "$1/control.json" 2>/dev/null && return
    printf '{"desired": "stop", "grace_seconds": %s, "reason": "%s"}\n' "$grace" \
        "lease expired: nobody renewed it for $term seconds" >"$1/.control.json.$$" &&
        mv -f "$1/.control.json.$$" "$1/control.json"
}

# Asks every job that is being worked on; false when there is none, or all came to rest.
busy() {
    working=1
    for job in "$base"/jobs/*; do
        occupied "$job" || continue
        grep -Eq '"finished_at"[[:space:]]*:[[:space:]]*"' "$job/status.json" 2>/dev/null && continue
        ask_to_stop "$job"
        working=0
    done
    return $working
}

# A session over SSH lacks what a container was started with, such as the key by which it may end
# itself; its first process has it. `export` is built into the shell, so nothing of it shows in a
# list of processes.
borrow_environment() {
    while IFS= read -r entry; do
        variable=${entry%%=*}
        case $variable in "$entry" | '' | [0-9]* | *[!A-Za-z0-9_]*) continue ;; esac
        eval "[ -n \"\${$variable+set}\" ]" || export "$entry"
    done <<ENTRIES
$(tr '\0' '\n' 2>/dev/null </proc/1/environ)
ENTRIES
}

shut_down() {
    within=
    command -v timeout >/dev/null 2>&1 && within='timeout 50'
    (
        borrow_environment 2>/dev/null
        printf '%s\n' "$shutdown_command" | $within sh
    ) >/dev/null 2>&1
}

term=0 nap=1 watched=0 since=0 seen= expired=
read -r up _ </proc/uptime || up=0
up=${up%%.*}
while :; do
    replaced && exit 0
    count
    now=$(leases)
    if [ "$now" != "$seen" ]; then
        seen=$now since=$watched expired=
        longest_term
    fi
    if [ "$term" -gt 0 ] && [ $((watched - since)) -ge "$term" ]; then
        [ -n "$expired" ] || { expired=$watched bade=; nap=1; }
        if busy && [ $((watched - expired)) -lt "$grace" ]; then
            :
        elif [ "$shutdown_command" = : ]; then # an owned machine stays, and nothing of ours on it
            rm -f "$base/sentinel.pid"
            exit 0
        elif [ -z "$bade" ] || [ $((watched - bade)) -ge "$again" ]; then
            bade=$watched
            shut_down # that we are still here proves that it did not work
        fi
    fi
    sleep "$nap"
done
