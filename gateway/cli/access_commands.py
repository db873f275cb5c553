"""The commands of `trainctl` for access: keys, users, and what was done."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.options import AsJson
from gateway.exits import reported

access_commands = typer.Typer()
keys = typer.Typer(help="The keys by which programs use the HTTP interface.")
users = typer.Typer(help="The people who sign in on the page.")
access_commands.add_typer(keys, name="keys")
access_commands.add_typer(users, name="users")

Scopes = Annotated[
    str,
    typer.Option(
        help="With commas: read looks, submit makes and controls jobs too, admin everything; report "
        "only sends metrics, alerts and log lines."
    ),
]
Project = Annotated[
    str | None, typer.Option(help="The only project whose jobs are seen. Default: all.")
]
UserName = Annotated[str, typer.Argument(metavar="NAME", help="By which they sign in.")]
NoPassword = Annotated[
    bool,
    typer.Option("--no-password", help="They sign in elsewhere: by OpenID Connect, or a proxy."),
]


@keys.command(name="create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for.")],
    scopes: Scopes = "submit",
    project: Project = None,
    expires: Annotated[
        str | None, typer.Option(help="After how long, such as 12h or 90d. Default: never.")
    ] = None,
) -> None:
    """Make a key and print it: this is the only time that it is shown.

    Example: trainctl keys create ci --scopes submit --project vision --expires 90d
    """
    with reported():
        from gateway.cli import admitting

        admitting.create_key(name, scopes, project, expires)


@keys.command(name="list")
def list_keys(json: AsJson = False) -> None:  # noqa: FBT002
    """List all keys that were made, without their secrets, the newest first.

    Example: trainctl keys list
    """
    with reported():
        from gateway.cli import admitting

        admitting.list_keys(as_json=json)


@keys.command(name="revoke")
def revoke_key(
    id: Annotated[str, typer.Argument(metavar="ID", help="As 'trainctl keys list' shows it.")],
) -> None:
    """Let a key open nothing from now on.

    Example: trainctl keys revoke 0123456789ab
    """
    with reported():
        from gateway.cli import admitting

        admitting.revoke_key(id)


@users.command(name="add")
def add_user(
    name: UserName,
    scopes: Scopes = "submit",
    project: Project = None,
    no_password: NoPassword = False,  # noqa: FBT002
) -> None:
    """Add somebody who may sign in; the password is asked for, or read from standard input.

    Example: trainctl users add ada --scopes admin
    """
    with reported():
        from gateway.cli import admitting

        admitting.add_user(name, scopes, project, with_password=not no_password)


@users.command(name="list")
def list_users(json: AsJson = False) -> None:  # noqa: FBT002
    """List who may sign in.

    Example: trainctl users list
    """
    with reported():
        from gateway.cli import admitting

        admitting.list_users(as_json=json)


@users.command(name="password")
def set_password(name: UserName) -> None:
    """Give somebody another password, and sign them out everywhere.

    Example: trainctl users password ada
    """
    with reported():
        from gateway.cli import admitting

        admitting.set_password(name)


@users.command(name="disable")
def disable_user(name: UserName) -> None:
    """Let somebody in no more, and sign them out everywhere.

    Example: trainctl users disable ada
    """
    with reported():
        from gateway.cli import admitting

        admitting.disable_user(name, disabled=True)


@users.command(name="enable")
def enable_user(name: UserName) -> None:
    """Let somebody in again.

    Example: trainctl users enable ada
    """
    with reported():
        from gateway.cli import admitting

        admitting.disable_user(name, disabled=False)


@access_commands.command()
def audit(
    job: Annotated[
        str | None, typer.Option(help="Only to this job: its id, or a beginning of it.")
    ] = None,
    who: Annotated[
        str | None, typer.Option(help="Only by this user, or by the key of this id.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 50,
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Show who did what by the HTTP interface, to which job, and what came of it.

    Example: trainctl audit --job 1a2b3c4d
    """
    with reported():
        from gateway.cli import admitting

        admitting.audit(limit, job, who, as_json=json)
