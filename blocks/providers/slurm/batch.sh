#!/bin/sh
# What Slurm runs on the first node of an allocation. Before it stands: base=…, home=…, and $agent,
# the text of agent.sh.
umask 077
unset SLURM_EXPORT_ENV # srun hands on what is set here
# An allocation that Slurm gives once more to the same job: its training goes on in another job.
[ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || exit 0
[ -z "$home" ] || export HOME="$home"
[ -n "$base" ] || base=$HOME/.training-orchestrator
place=$base/slurm/$SLURM_JOB_ID
# A controller that lost its state counts from 1 again: an older job's word that all is over is not ours.
rm -rf -- "$place"
mkdir -p -- "$place" && printf '%s' "$agent" >"$place/agent.sh" || exit 1
notice() {
    [ ! -e "$place/over" ] || exit 0
    : >"$place/taken-back"
}
trap notice TERM USR1 # USR1: a while before the time limit; TERM: at the end

# A preemption with a grace period is announced to steps only, not to this script. Nothing that the
# step starts may hold its outputs open: Slurm would wait for a minute.
listen="exec >/dev/null 2>&1; trap ': >\"$place/taken-back\"; kill \$!; exit' TERM
while :; do sleep 60 & wait \$!; done"
srun --overlap --nodes=1 --ntasks=1 --mem=0 sh -c "$listen" </dev/null >/dev/null 2>&1 &

if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
    # Without a word of it a step has one CPU, since Slurm 22.05.
    srun --overlap --ntasks-per-node=1 --ntasks="$SLURM_JOB_NUM_NODES" --mem=0 --kill-on-bad-exit=0 \
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" --cpu-bind=none \
        sh "$place/agent.sh" "$place" </dev/null &
else
    SLURM_NODEID=0 sh "$place/agent.sh" "$place" </dev/null &
fi
# A signal ends the waiting, and not the agent.
while kill -0 $! 2>/dev/null; do wait $!; done
