# Waits until the metadata server says that the VM is taken back. A read that hangs until the value
# changes hears it at once; it ends after a while, or with 503, and is repeated. Asked without hanging
# in between: what changed while nobody read is no change any more.

value() {
    curl -fs -m 90 -H "Metadata-Flavor: Google" "http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/preempted$1";
};
until [ "$(value)" = TRUE ] || [ "$(value '?wait_for_change=true&timeout_sec=30')" = TRUE ]; do
    sleep 1;
done
