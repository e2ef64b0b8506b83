"""Project certificates on this machine: where they lie, and how they stay young."""

from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

from hortus.cli import show, signin
from hortus.client import About, Folder, HortusError, new_key
from hortus.client.folder import ABOUT_FILE, about


def home() -> Path:
    """Where the certificates of whoever is signed in lie: nobody else's, and of no other Hortus."""
    kept = signin.load()
    if not kept.address or not kept.username:
        raise signin.NotSignedIn("You are not signed in: run `hortus login`.")
    parts = urlsplit(kept.address)
    place = f"{parts.hostname}_{parts.port or 443}"
    return signin.place().parent / "certificates" / place / quote(kept.username, safe="")


def usual(project_id: str) -> Folder:
    """The folder of a project's certificate, unless its owner names another one."""
    return Folder(home() / project_id)


def find(project: str | None, folder: Path | None) -> tuple[Folder, About]:
    """The certificate in a folder, or that of a project (name or id), or the only one that there is. Raises HortusError."""
    if folder is not None:
        kept = Folder(folder).read()
        if kept is None:
            raise HortusError(f"There is no certificate of `hortus certificate create` in {folder}.")
        return Folder(folder), kept
    found = [(each, kept) for each in _all() if (kept := each.read()) and project in (None, kept.project_id, kept.project)]
    if not found:
        raise HortusError("There is no such certificate on this machine: make one with `hortus certificate create`, or name its --folder.")
    if len(found) > 1:
        raise HortusError(f"Say which certificate by its --project: {', '.join(kept.project_id for _, kept in found)}.")
    return found[0]


def order(folder: Folder, project_id: str, project: str) -> About:
    """Make a key here and have it certified for whoever is signed in. Raises HortusError, and leaves what was there then."""
    kept = signin.load()
    folder.demand_own(kept.address, kept.username, project_id)
    with signin.own() as client:
        made = new_key(f"{project}__{kept.username}")
        issued = client.certificates.create(project_id, made.csr)
    known = about(issued, kept.address, kept.username, project)
    folder.write(made.key, issued, kept.trust, known)
    return known


def renew(folder: Folder, known: About) -> About:
    """Have a new key certified in place of the one in a folder. Raises HortusError when somebody else is signed in."""
    kept = signin.load()
    if (kept.address, kept.username) != (known.address, known.username):
        raise HortusError(
            f"The certificate in {folder.path} is that of {known.username} at {known.address}, who is not signed in here: run `hortus login`."
        )
    with folder.alone():
        now = folder.read()
        if now is not None and now.certificate_id != known.certificate_id:
            return now  # another command was faster
        return order(folder, known.project_id, known.project)


def keep_young(folder: Folder) -> None:
    """Renew a certificate that is about to be used and has passed half of its life, where its owner is signed in.

    It goes on without that as long as the certificate lives. Raises HortusError when it does not.
    """
    known = folder.read()
    now = datetime.now(UTC)
    if known is None or not known.is_half_over(now):
        return
    try:
        renew(folder, known)
    except HortusError as error:
        ended = known.ends_at <= now
        if ended:
            raise HortusError(
                f"The certificate in {folder.path} ended at {show.moment(known.not_after)}, and was not renewed: {error}"
            ) from error
        show.say(f"The certificate in {folder.path} ends at {show.moment(known.not_after)} and was not renewed: {error}")


def _all() -> list[Folder]:
    return [Folder(file.parent) for file in sorted(home().glob(f"*/{ABOUT_FILE}"))]
