# Look at the Pythons of a machine, and print what the probe says of each.
#
#     sh -c TEXT sh <base> <key> <every> <probe> <package>…
#
# Environments of this very wheel, whose names begin with the key, come first: when one is ready
# and <every> is empty, nothing else is looked at. Those of other wheels come last: what was
# installed there can be used again. Exit code 3: the base cannot be written.
export LC_ALL=C
base=$1 key=$2 every=$3 probe=$4
shift 4
cd / || exit  # a Python looks for packages where it is started
mkdir -p "$base/envs" "$base/wheels" || exit 3
[ -w "$base/envs" ] || { echo "$base/envs: no permission to write" >&2; exit 3; }

ask() {
    python=$1
    shift
    said=$("$python" -c "$probe" "$@") && echo "@python $said"
}

seen=:
look() {
    found=$(command -v "$1") || return
    shift
    # python and python3 of one folder are one; those of an environment are not what they link to.
    same="${found%/*}=$(readlink -f "$found" || echo "$found")"
    case "$seen" in *":$same:"*) return ;; esac
    seen="$seen$same:"
    ask "$found" "$@"
}

for uv in uv "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv" "$base/tools/bin/uv"; do
    uv=$(command -v "$uv") && { echo "@uv $uv"; break; }
done
ready=
for folder in "$base/envs/$key"-*; do
    [ -f "$folder/ready" ] && ask "$folder/bin/python" "$@" && ready=yes
done
[ -n "$ready" ] && [ -z "$every" ] && exit 0
for place in \
    "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" "${CONDA_PREFIX:+$CONDA_PREFIX/bin/python}" \
    /venv/main/bin/python /opt/conda/bin/python \
    python3.14 python3.13 python3.12 python3.11 python3 python \
    "$HOME/miniconda3/bin/python" "$HOME/anaconda3/bin/python" /opt/miniconda3/bin/python \
    "$base"/python/*/bin/python3
do
    look "$place" "$@"
done
for folder in "$base"/envs/*; do
    case "$folder" in "$base/envs/$key"-*) continue ;; esac
    [ -f "$folder/ready" ] && look "$folder/bin/python" "$@"
done
exit 0
