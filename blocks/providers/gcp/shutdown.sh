# Deletes the VM that it runs on, where it has a service account that may; else it powers off. Its
# lines are joined to one, so each ends as a line of sh may. The token goes through a pipe, for
# anybody on the machine can read arguments.

ask() {
    curl -fsS -m 20 -H "Metadata-Flavor: Google" "http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/$1";
};
token=$(ask service-accounts/default/token | sed -n 's/.*"access_token" *: *"\([^"]*\)".*/\1/p');
url=${GCP_API_URL:-https://compute.googleapis.com/compute/v1}/$(ask zone)/instances/$(ask name);
delete() {
    [ -n "$token" ] && printf 'header = "Authorization: Bearer %s"\n' "$token" |
        curl -fsS -m 20 -o /dev/null -K - -X DELETE "$url";
};
delete || sudo -n shutdown -h now || shutdown -h now || kill 1
