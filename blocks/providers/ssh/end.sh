# Ends the processes in a job directory of this host and removes it; follows occupied.sh.
# $1: its name, $2: seconds from SIGTERM to SIGKILL, $3: seconds for SIGKILL to work
name=$1
case $name in '' | *[!a-z0-9-]*) exit 64 ;; esac
place=${HOME:?}/.training-orchestrator/jobs/$name
[ -e "$place" ] || [ -L "$place" ] || exit 0

# The processes that the status names and that have a file of the folder open. A number alone
# proves nothing: after a crash or a reboot it may be somebody else's.
occupants() {
    for key in pid trainer_pid; do
        tr ',{}' '\n\n\n' 2>/dev/null <"$folder/status.json" |
            sed -n 's/^[[:space:]]*"'$key'"[[:space:]]*:[[:space:]]*\([0-9]\{1,9\}\)[[:space:]]*$/\1/p'
    done | while read -r found; do
        [ "$found" -gt 1 ] || continue
        ls -l "/proc/$found/fd" 2>/dev/null | grep -qF -- "-> $folder/" && echo "$found"
    done
}

# The whole group if the process leads one; a process that a script started shares its group.
signal() {
    group=$(sed 's/.*) //' "/proc/$2/stat" 2>/dev/null | cut -d ' ' -f 3)
    if [ "$group" = "$2" ]; then
        groups="$groups $group"
        kill "-$1" "-$2" 2>/dev/null
    else
        kill "-$1" "$2" 2>/dev/null
    fi
}

seconds_up() {
    read -r up _ </proc/uptime
    echo "${up%%.*}"
}

# Asks again and again: a status that was not written yet may be now.
send() {
    asked=' '
    end=$(($(seconds_up) + $2))
    while occupied "$folder" && [ "$(seconds_up)" -lt "$end" ]; do
        for found in $(occupants); do
            case $asked in *" $found "*) continue ;; esac
            asked="$asked$found "
            signal "$1" "$found"
        done
        sleep 0.1 2>/dev/null || sleep 1
    done
}

groups=
if [ -d "$place" ] && [ ! -L "$place" ]; then
    folder=$(cd -P -- "$place" && pwd -P) || exit
    send TERM "$2"
    send KILL "$3"
    for group in $groups; do # data loaders and the like, which need not hold the lock
        kill -KILL "-$group" 2>/dev/null
    done
    if occupied "$folder"; then
        echo '@occupied'
        exit 0
    fi
fi
rm -rf -- "$place" || { echo '@left' && exit 0; }
