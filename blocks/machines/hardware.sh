# Says what this machine has; see hardware.py.
base=${HOME:?}/.training-orchestrator
where=$base
[ -d "$where" ] || where=$HOME
printf '@home %s\n' "$HOME"
df -Pk "$where" 2>/dev/null | tail -n 1 | sed 's/^/@disk /'
grep MemTotal /proc/meminfo 2>/dev/null | sed 's/^/@memory /'
grep -c '^processor' /proc/cpuinfo 2>/dev/null | sed 's/^/@cores /'
within=
command -v timeout >/dev/null 2>&1 && within="timeout"
if command -v nvidia-smi >/dev/null 2>&1; then
    said=$(${within:+$within 10} nvidia-smi --query-gpu=name,memory.total,memory.free,uuid \
        --format=csv,noheader,nounits 2>&1 </dev/null)
    printf '@smi %s\n' "$?"
    printf '%s\n' "$said" | head -n 64 | sed 's/^/@gpu /'
fi
