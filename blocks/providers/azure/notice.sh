# Waits until Azure announces that it takes this machine back. Its lines are joined to one.
#
# The first question switches the service on, and may take two minutes to be answered. The event is
# not acknowledged: that would bring the end forward.

imds=${AZURE_IMDS_URL:-http://169.254.169.254}/metadata;
until curl -fsS -m 130 --noproxy '*' -H Metadata:true
    "$imds/scheduledevents?api-version=2020-07-01"
    | grep -q '"EventType" *: *"Preempt"';
do sleep 1; done
