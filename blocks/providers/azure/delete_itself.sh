# Deletes the machine that it runs on, by the managed identity that it was given. Its lines are
# joined to one, so each ends as a line of sh may.
#
# The token goes through a pipe, for anybody on the machine can read arguments.

imds=${AZURE_IMDS_URL:-http://169.254.169.254}/metadata;
ask() { curl -fsS -m 20 --noproxy '*' -H Metadata:true "$imds/$1"; };
id=$(ask 'instance/compute/resourceId?api-version=2021-02-01&format=text');
token=$(ask 'identity/oauth2/token?api-version=2018-02-01&resource=@ARM@'
    | sed -n 's/.*"access_token" *: *"\([^"]*\)".*/\1/p');
printf 'header = "Authorization: Bearer %s"\n' "$token"
    | curl -fsS -m 20 -A training-orchestrator -K - -X DELETE
    "@ARM@$id?api-version=@VERSION@&forceDeletion=true"
