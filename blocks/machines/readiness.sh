# Makes our folder and tries disk and GPUs; follows hardware.sh. See readiness.py.
# $1: Python code that computes on every GPU, or nothing
umask 077
touch -- "$HOME/.no_auto_tmux" # images of Vast start tmux at every login
if ! said=$(mkdir -p -- "$base" 2>&1 && chmod 700 "$base" 2>&1 &&
    dd if=/dev/zero of="$base/.probe" bs=4096 count=16 conv=fsync 2>&1); then
    printf '%s\n' "$said" | grep -v '^[0-9]' | tail -n 1 | sed 's/^/@unwritable /'
fi
rm -f -- "$base/.probe"
python=$(command -v python3 || command -v python) && printf '@python %s\n' "$python"
if [ -n "$1" ] && [ -n "$python" ]; then
    cd / # a Python looks for modules where it is started
    ${within:+$within 60} "$python" -c "$1" 2>&1 </dev/null
    printf '@computed %s\n' "$?"
fi
