"""`edgecache token`: who may do what on an edge."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from edgecache.cli.client import ControlClient, Json
from edgecache.cli.errors import CommandFailed
from edgecache.cli.groups import CommandGroup
from edgecache.cli.options import FILLED, FILLED_PATH, json_option, print_json, with_client
from edgecache.cli.tables import print_table

VERBS = ("push", "activate", "purge", "logs", "read")


@click.group(cls=CommandGroup)
def token() -> None:
    """Create, list and revoke tokens; reset the operator's."""


def _verbs(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    verbs = [verb.strip() for verb in value.split(",") if verb.strip()]
    unknown = [verb for verb in verbs if verb not in VERBS]
    if unknown or not verbs:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'} is not among the verbs {', '.join(VERBS)}")
    return list(dict.fromkeys(verbs))


@token.command()
@click.option("--site", type=FILLED, metavar="SITE", help="The one site it is for; without it, --verbs read is for all")
@click.option("--verbs", callback=_verbs, metavar="VERB,…", help=f"What it may do there: {', '.join(VERBS)}")
@click.option("--operator", is_flag=True, help="A token that may do everything")
@click.option("--expires-in", type=FILLED, metavar="DURATION", help="Such as 12h or 30d; without it, never")
@click.option("--note", default="", help="Who it is for")
@json_option
@with_client
def create(
    client: ControlClient,
    *,
    site: str | None,
    verbs: list[str] | None,
    operator: bool,
    expires_in: str | None,
    note: str,
    as_json: bool,
) -> None:
    """Create a token and print it: the only time it is shown."""
    wrong = bool(site or verbs) if operator else not (verbs and (site or verbs == ["read"]))
    if wrong:
        raise click.UsageError("give either --site SITE with --verbs VERB,…, or --verbs read alone, or --operator")
    asked: Json = {"operator": True} if operator else {"verbs": verbs}
    asked |= {key: value for key, value in (("site", site), ("expires_in", expires_in), ("note", note)) if value}
    found = client.post("tokens", body=asked)
    if as_json:
        print_json(found)
    else:
        # The secret alone on standard output, so that TOKEN=$(edgecache token create …) works.
        click.echo(found["token"])
        click.echo(f"token {found['id']} is shown this once: keep it safe", err=True)


@token.command("list")
@click.option("--site", type=FILLED, metavar="SITE", help="Only this site's")
@json_option
@with_client
def list_tokens(client: ControlClient, site: str | None, as_json: bool) -> None:
    """List tokens, without their secrets."""
    found = client.get("tokens", query={"site": site} if site else None)
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "SITE", "VERBS", "CREATED", "EXPIRES", "NOTE"),
        (
            (
                t["id"],
                "(operator)" if t["operator"] else t["site"] or "(all)",
                "all" if t["operator"] else t["verbs"],
                t["created"],
                t["expires"],
                t["note"],
            )
            for t in found["tokens"]
        ),
        empty="There are no tokens.",
    )


@token.command()
@click.argument("token_id", type=FILLED, metavar="ID")
@with_client
def revoke(client: ControlClient, token_id: str) -> None:
    """Revoke the token ID (as listed) at once."""
    client.delete("tokens", token_id)
    click.echo(f"revoked token {token_id}")


@token.command()
@click.option("--state", metavar="DIR", type=FILLED_PATH, help="The edge's state directory  [default: .edgecache]")
def reset(state: Path | None) -> None:
    """Make a new operator's token where it was lost, and revoke the old ones. The edge must be stopped.

    It is written to operator.token in the state directory, as at the first start. Tokens of sites and those for reading stay.
    """
    from edgecache.config import DEFAULT_STATE  # noqa: PLC0415 (slow to import, as all below: `edgecache --help` must not wait)
    from edgecache.control.resetting import reset_operator  # noqa: PLC0415
    from edgecache.control.state import Failure, StateError  # noqa: PLC0415

    directory = state or DEFAULT_STATE
    try:
        path, revoked = asyncio.run(reset_operator(directory))
    except StateError as error:
        if error.failure is Failure.IN_USE:
            advice = "stop it first; or, with a token that you have, `edgecache token create --operator` makes another"
            raise CommandFailed(f"the operator's token was not reset: an edge runs with {directory}", advice=advice) from error
        raise CommandFailed(f"the operator's token was not reset: {error.detail}") from error
    except OSError as error:
        what = ": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error)
        raise CommandFailed(f"the operator's token was not written, do it again: {what}") from error
    click.echo(f"the operator's token is in {path}; {revoked} earlier {'one is' if revoked == 1 else 'ones are'} revoked")
