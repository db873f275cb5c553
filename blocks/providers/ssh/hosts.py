"""A user's own hosts: how they are written, the key that opens them, the key they must show."""

from __future__ import annotations

import getpass
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blocks.home import home, keys, private_folder
from trainer.contract.errors import ConfigError, CredentialsError
from trainer.contract.files import replace_text

HOSTS_VARIABLE = "SSH_HOSTS"
KEY_VARIABLE = "SSH_KEY_FILE"
SSH_PORT = 22
NOTES = "ssh-launches"  # in the home: on which host each instance was launched, by its mark
KEY_FILES = ("id_ed25519", "id_ecdsa", "id_rsa")
"""Where in ~/.ssh a private key is looked for, in this order."""

_HOST = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?"
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]"
    r"|(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class Host:
    """Where an sshd listens and whom to log in as."""

    user: str
    address: str
    """Host name or IP address, without brackets."""
    port: int

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.user}@{address}:{self.port}"


def parse_host(text: str) -> Host:
    """Return the host in `[user@]host[:port]`; without a user it is ours, as ssh has it.

    Raises:
        ConfigError: it is not a host.
    """
    match = _HOST.fullmatch(text.strip())
    # Checked below with all the rest, so that every mistake in a host has the same message.
    port = int((match and match["port"]) or SSH_PORT)
    if match is None or not 0 < port < 1 << 16 or not _is_ipv6(match["ipv6"]):
        raise ConfigError(
            f"{text!r} is not an SSH host.",
            "Write hosts as [user@]host[:port], an IPv6 address in brackets: "
            "alice@gpu-box:2222, 10.0.0.7, root@[fd00::7].",
        )
    return Host(
        user=match["user"] or getpass.getuser(),
        # Names of hosts know no case, and one host must have one file for its key.
        address=(match["ipv6"] or match["name"]).lower(),
        port=port,
    )


def chosen_hosts(given: Sequence[str]) -> list[Host]:
    """Return the hosts given, or else those in SSH_HOSTS, each once.

    Raises:
        ConfigError: one is not a host.
    """
    texts = given or os.environ.get(HOSTS_VARIABLE, "").split(",")
    return list(dict.fromkeys(parse_host(text) for text in texts if text.strip()))


def usable_key(given: Path | None) -> Path:
    """Return the file of the private key: the one given, else of SSH_KEY_FILE, else in ~/.ssh.

    Raises:
        CredentialsError: there is no key, or it cannot be used; names the file and where to set it.
    """
    chosen = given or os.environ.get(KEY_VARIABLE)
    if not chosen:
        candidates = [Path("~/.ssh", name).expanduser() for name in KEY_FILES]
        chosen = next((path for path in candidates if path.exists()), None)
    if not chosen:
        raise CredentialsError(
            f"There is no private key for SSH: ~/.ssh has none of {', '.join(KEY_FILES)}.",
            f"Set {KEY_VARIABLE} or the block's private_key to one that the hosts know.",
        )
    path = Path(chosen).expanduser().absolute()
    if trouble := _trouble_with(path):
        raise CredentialsError(
            f"The private key {path} cannot be used: {trouble}.",
            f"Set {KEY_VARIABLE} or the block's private_key to one without a passphrase "
            "that the hosts know.",
        )
    return path


def host_key_file(host: Host) -> Path:
    """Return the file where the host's key is pinned.

    What the user's own known_hosts says of the host is taken over each time; else it is the key
    that the host showed first.
    """
    folder = private_folder(keys() / "ssh-hosts")
    path = private_folder(folder / f"{host.address}-{host.port}") / "host_key"
    known = known_lines(host)
    # A pin that known_hosts also has stays: of several keys, it is the one the host showed.
    if known and not (path.exists() and path.read_text(encoding="utf-8") in known):
        replace_text(path, known[0])
    return path


def note_host(name: str, host: Host) -> None:
    """Note at home where an instance is launched.

    Its record is on its host alone; if that cannot be reached, this note says that it may be there.
    """
    replace_text(_note(name), str(host))


def noted_host(name: str) -> Host | None:
    """Return where an instance was launched, or None when it was not, or not from here."""
    try:
        return parse_host(_note(name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def forget_host(name: str) -> None:
    """Remove the note of `note_host`."""
    _note(name).unlink(missing_ok=True)


def _note(name: str) -> Path:
    return private_folder(home() / NOTES) / name


def known_lines(host: Host) -> list[str]:
    """Return a line for each key that the user's own known_hosts has for a host, best first."""
    import asyncssh

    try:
        content = Path("~/.ssh/known_hosts").expanduser().read_text(encoding="utf-8")
        known = asyncssh.import_known_hosts(content)
    except (OSError, ValueError):  # no such file, or one that ssh would not read either
        return []
    # known_hosts writes a port only where it is not 22, as [host]:port:
    # https://man.openbsd.org/sshd#SSH_KNOWN_HOSTS_FILE_FORMAT
    port = None if host.port == SSH_PORT else host.port
    trusted, *_ = known.match(host.address, "", port)
    ranked = sorted(trusted, key=lambda key: _rank(key.get_algorithm()))
    place = f"[{host.address}]:{host.port}" if port else host.address
    return [f"{place} {key.export_public_key().decode().strip()}\n" for key in ranked]


def _rank(algorithm: str) -> int:
    """Order the kinds of keys by what a host most likely still has."""
    kinds = ("ed25519", "ecdsa")
    return next((rank for rank, kind in enumerate(kinds) if kind in algorithm), len(kinds))


def _is_ipv6(text: str | None) -> bool:
    """Whether a text is an IPv6 address; None, where there is nothing to check, passes."""
    try:
        return text is None or bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def _trouble_with(path: Path) -> str:
    import asyncssh  # a third of a second, for those who need it

    try:
        asyncssh.read_private_key(path)
    except OSError as error:
        return error.strerror or str(error)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        return str(error)
    return ""
