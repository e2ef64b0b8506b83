"""``python -m chassis SERVICE`` runs a service, ``… migrate SERVICE`` brings its database up to date."""

import argparse
import os

from chassis import app
from contracts.policy import Service


def main() -> None:
    """Read the command line."""
    services = [service.value for service in Service]
    parser = argparse.ArgumentParser(prog="python -m chassis", description=__doc__)
    parser.add_argument("what", choices=[*services, "migrate"], help="the service to run, or `migrate`")
    parser.add_argument("service", nargs="*", metavar="service", help="with `migrate`: the services to bring up to date")
    parser.add_argument("--only", choices=["api", "events"], help="run one half of the service")
    arguments = parser.parse_args()
    if arguments.what != "migrate":
        app.main(arguments.what, arguments.only)
        return
    from chassis.migrate import migrate  # noqa: PLC0415 - a service does without it

    for service in arguments.service:
        if service not in services:
            parser.error(f"{service} is none of {', '.join(services)}")
        own = f"HORTUS_{service.upper()}_DATABASE_OWNER_URL"
        url = os.environ.get(own) or os.environ.get("HORTUS_DATABASE_OWNER_URL")
        if not url:
            parser.error(f"set HORTUS_DATABASE_OWNER_URL or {own}")
        migrate(service, url)


if __name__ == "__main__":
    main()
