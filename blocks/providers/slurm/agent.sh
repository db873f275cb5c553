# Runs on every node of an allocation, and obeys what is asked for in a folder of the shared file system.
# POSIX sh. $1: the folder of the allocation
#
#     <rank>/inbox        34 characters and a line break for each request: r or k, a blank, its id
#     <rank>/todo/ID      r: the script to run, which removes itself
#     <rank>/answers/ID.* pid, out, err, and last its exit code; k: kill what runs under the id
#     <rank>/alive        a number that grows
#     taken-back          Slurm is about to take the nodes back
#     over                what the nodes hold is wanted by nobody any more
#
# What is looked at again and again is opened anew each time, and is there before it is looked for:
# a network file system shows others' changes at an open, and remembers names that were not there.
umask 077
place=$1 mine=$1/${SLURM_NODEID:-0}
mkdir -p -- "$mine/todo" "$mine/answers" "$mine/jobs"
export TRAINING_ORCHESTRATOR_AGENT=$SLURM_JOB_ID.$$ TRAINING_ORCHESTRATOR_SIGTERM=notice
export TRAINING_ORCHESTRATOR_TAKEN_BACK="$place/taken-back"
trap ': >"$place/taken-back"' TERM USR1
trap 'exit 0' USR2

# Where Slurm tracks processes by their parents only, what has a session of its own outlives the job. This
# one ends it once the agent has gone; where Slurm ends everything, it is ended with the rest.
(setsid sh -c '
    while kill -0 "${1#*.}" 2>/dev/null; do sleep 1; done
    for round in 1 2 3; do
        for file in $(grep -alzx "TRAINING_ORCHESTRATOR_AGENT=$1" /proc/[0-9]*/environ 2>/dev/null); do
            number=${file#/proc/} number=${number%/environ}
            [ "$number" = $$ ] || kill -9 "$number" 2>/dev/null
        done
    done' sh "$TRAINING_ORCHESTRATOR_AGENT" </dev/null >/dev/null 2>&1 &)

# Runs the request $1 in a session of its own, of which nothing is left at its end.
obey() {
    trap : TERM USR1 # what interrupts the waiting does not end it; the request itself gets its defaults
    trap - USR2
    answer=$mine/answers/$1
    setsid sh "$mine/todo/$1" >"$answer.out" 2>"$answer.err" </dev/null &
    echo "$!" >"$answer.pid"
    code=
    while [ -z "$code" ] || kill -0 $! 2>/dev/null; do
        wait $!
        code=$?
    done
    kill -9 "-$!" 2>/dev/null
    echo "$code" >"$answer.code"
}

: >>"$mine/inbox"
seen=0 beat=0 idle=0
while :; do
    set -- $(tail -c "+$((seen + 1))" "$mine/inbox")
    while [ $# -ge 2 ]; do
        seen=$((seen + 35)) idle=0
        case $1 in
        r) obey "$2" & ;;
        k) read -r number 2>/dev/null <"$mine/answers/$2.pid" && kill -9 "-$number" 2>/dev/null ;;
        esac
        shift 2
    done
    [ ! -e "$place/over" ] || exit 0
    beat=$((beat + 1)) idle=$((idle + 1))
    echo "$beat" >"$mine/alive"
    # Nobody has ever come: without a sentinel, nothing else ends this.
    [ "$idle" -lt 3600 ] || [ -e "$mine/sentinel.pid" ] || exit 0
    if [ "$idle" -lt 50 ]; then sleep 0.2; else sleep 1; fi
done
