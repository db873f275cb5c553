# Says which GPUs of this host are locked and which are out of use, by the files of
# trainer/contract/gpu_files.py, and what computes on them.
locks=${TRAINING_ORCHESTRATOR_GPU_LOCKS:-}
[ -n "$locks" ] || for common in /run/lock /tmp; do
    locks=$common/training-orchestrator-gpus
    # Where all users may write, as for all users alike.
    case $(ls -ld "$common" 2>/dev/null) in d???????w*) break ;; esac
done
printf '@boot %s\n' "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
for file in "$locks"/*; do
    name=${file##*/}
    case $name in *[!A-Za-z0-9._-]*) continue ;; esac
    [ -f "$file" ] && [ ! -L "$file" ] || continue
    case $name in
    *.json | *.sick)
        printf '@gpunote %s ' "$name"
        head -c 1024 "$file" | tr '\n\r' '  '
        printf '\n'
        ;;
    *)
        # "1: OFDLCK ADVISORY  WRITE -1 fe:00:12345 0 EOF": device and inode, first and last byte
        set -- $(ls -i "$file")
        sed -n "s/.*OFDLCK.*:$1 \([0-9]*\) \([0-9EOF]*\)\$/@gpulock $name \1 \2/p" /proc/locks
        ;;
    esac
done 2>/dev/null | head -n 500
! command -v nvidia-smi >/dev/null 2>&1 || ${within:+$within 10} nvidia-smi \
    --query-compute-apps=gpu_uuid,pid,used_gpu_memory,process_name --format=csv,noheader,nounits \
    2>/dev/null </dev/null | head -n 200 | sed 's/^/@gpuapp /'
