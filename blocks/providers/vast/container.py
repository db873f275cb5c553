"""What runs in a container of Vast.ai when it starts and when it is to end."""

from __future__ import annotations

import shlex

URL = "https://console.vast.ai"

# How a container destroys itself. Its own key may do that, and nothing to other instances. An SSH
# session does not inherit the key, but process 1 has it. The key travels through pipes, because
# every user of the machine can read a command line. Not every image has curl.
DESTROY_ITSELF = (
    """own() { printenv "$1" || tr '\\0' '\\n' </proc/1/environ | sed -n "s/^$1=//p"; }; """
    f"""url="${{VAST_API_URL:-{URL}}}/api/v0/instances/$(own CONTAINER_ID)/"; """
    """PATH="$PATH:/opt/conda/bin:/venv/main/bin"; key=$(own CONTAINER_API_KEY); """
    """{ printf 'header = "Authorization: Bearer %s"\\n' "$key" """
    """| curl -sS -m 60 -K - -X DELETE "$url" || printf %s "$key" | python3 -I -c """
    """"import sys, urllib.request as u; print(u.urlopen(u.Request(sys.argv[1], """
    """method='DELETE', headers={'Authorization': 'Bearer ' + sys.stdin.read(), """
    """\'User-Agent': 'training-orchestrator'}), timeout=60).read().decode())" "$url"; } """
    """| grep -q '"success": *true'"""
)


def onstart(public_key: str, first_script: str = "") -> str:
    """Return what runs when a container starts: the key is there at once, and no tmux.

    Args:
        public_key: who may log in.
        first_script: further sh, which is not waited for.
    """
    key = shlex.quote(public_key.strip())
    keys = "~/.ssh/authorized_keys"
    # Appended and not written: the image or the host may have put keys of its own there.
    begin = f"mkdir -p -m 700 ~/.ssh; echo {key} >> {keys}; chmod 600 {keys}; touch ~/.no_auto_tmux"
    if not first_script:
        return begin
    # Vast.ai takes 4048 characters and refuses more, and the key must be there whatever follows.
    return f"{begin}; (sh -c {shlex.quote(first_script)} </dev/null >/dev/null 2>&1 &)"
