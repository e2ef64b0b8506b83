"""The policy as a page for people who do not program: who may do what, under which condition, and what is recorded of it."""

from collections.abc import Iterator

from chassis.app import load, routes_in
from chassis.guard import action_of
from contracts.model import BEYOND, LINES, Grant, Line
from contracts.policy import API, DEFAULT_BODY, KIB, POLICY, SERVICE, STEP_UP_S, Action, Condition, Rule, Service, Who

COLUMNS = {
    Who.NOBODY: ("nobody", "Whoever shows nothing: not signed in, not known."),
    Who.SIGNED_IN: ("signed in", "Anybody with an active account, member of a project or not."),
    Who.DATA_SCIENTIST: ("scientist", "A Data Scientist of the project that the door names: processes data inside, and takes none out."),
    Who.DATA_OWNER: ("owner", "A Data Owner of the project that the door names: decides who is in, what comes in and what goes out."),
    Who.ADMINISTRATOR: (
        "admin",
        "An administrator of the installation: looks after accounts and machines; a stranger in every project but one opened in an emergency.",
    ),
    Who.AUDITOR: ("auditor", "An auditor of the installation: reads the ledger, reviews emergencies; a stranger in every project."),
    Who.AGENT: ("agent", "A machine that runs jobs, by its own certificate."),
    Who.JOB: ("job", "A running job, by the certificate of that run."),
    Who.SERVICE: ("service", "A service or the gateway for itself, by its own certificate; the gateway has no such door."),
}
SERVICES = {
    Service.AUTH: "Accounts and signing in",
    Service.PROJECTS: "Projects and their members",
    Service.CA: "Certificates",
    Service.DATASETS: "Datasets, files and shares",
    Service.JOBS: "Jobs and the machines that run them",
    Service.SEARCH: "Search",
    Service.AUDIT: "The ledger",
}
PEOPLE = (Who.SIGNED_IN, Who.DATA_SCIENTIST, Who.DATA_OWNER, Who.ADMINISTRATOR, Who.AUDITOR)
YES = "yes"
IF = "if"
NO = "-"
NOT_YET = "not yet"


def page() -> str:
    """The whole page, in Markdown."""
    said = sentences()
    numbers = numbered()
    return "\n".join([*_opening(), *_glance(said), *_tables(said, numbers), *_model(), *_conditions(numbers), *_doors()]) + "\n"


def sentences() -> dict[Action, str]:
    """What each action is, in the words of its door; for actions whose door is not built, nothing."""
    found = {}
    for service in Service:
        for route in routes_in(load(service).router):
            action = action_of(route)
            if action is not None:
                found[action] = (route.description or "").split("\n\n", maxsplit=1)[0].replace("\n", " ").strip()
    return found


def numbered() -> dict[Condition, int]:
    """The conditions that rows name, counted in the order in which they are met."""
    named = dict.fromkeys(condition for service in Service for _, rule in rows(service) for condition in rule.when)
    return {condition: number for number, condition in enumerate(named, 1)}


def rows(service: Service) -> Iterator[tuple[Action, Rule]]:
    """The rows of a service."""
    return ((action, rule) for action, rule in POLICY.items() if rule.service is service)


def lets_in(rule: Rule, column: Who) -> bool:
    """Whether whoever stands in a column is let in: what everybody may, and what whoever signed in may, counts for each of them."""
    return column in rule.who or Who.NOBODY in rule.who or (Who.SIGNED_IN in rule.who and column in PEOPLE)


def _opening() -> list[str]:
    return [
        "# The policy",
        "",
        "Who may do what. This page is generated from `contracts/policy.py`, the one table that the gateway and every service enforce: what has no",
        "row here is refused. How to read it:",
        "",
        "**Who asks.** Somebody can stand in several columns; one that lets them in is enough. A role counts only in the project that the door names.",
        "",
        *[f"- *{name}*: {words}" for name, words in COLUMNS.values()],
        "",
        "**What the marks say.**",
        "",
        f"- *{YES}*: allowed. *{IF}*: allowed under the conditions whose numbers stand in the row; they are listed [below](#conditions), and the service",
        f"  that owns the data checks them. *{NO}*: refused.",
        "- *Shown*: *any* credential will do (a sign-in, an API key made for this action, a project certificate); *session*: only a person who signed",
        "  in, no API key and no certificate that lies on a machine; *fresh*: a person who signed in and showed their second factor less than",
        f"  {STEP_UP_S // 60} minutes ago; *own*: the certificate of that machine, run or service; *none*: nothing is asked for.",
        "- *Told*: what a caller hears who is let in by no column. *yes*: that they may not (403). *hidden*: as if it did not exist (404), for whoever",
        "  is no member of the project. Whoever is not signed in is asked to sign in (401).",
        "- *Recorded*: *access*: each use and each refusal is a record in the ledger, with its reason, written by the gateway. *opened, closed*: the",
        "  answer carries bytes of a dataset, so one record is on disk before the first byte leaves, and another says how many left and their hash.",
        "  Whatever changes something is recorded once more by the service, in the transaction of the change; *change*: by it alone.",
        "",
    ]


def _glance(said: dict[Action, str]) -> list[str]:
    owners = [action for action, rule in POLICY.items() if Who.DATA_OWNER in rule.who and Who.DATA_SCIENTIST not in rule.who]
    bytes_leave = [action for action, rule in POLICY.items() if rule.carries_bytes]
    anybody = [action for action, rule in POLICY.items() if Who.NOBODY in rule.who]
    return [
        "## At a glance",
        "",
        "**What a Data Owner may and a Data Scientist may not:**",
        "",
        *[f"- {said.get(action) or action.value} (`{action.value}`)" for action in owners],
        "",
        "**Where bytes of a dataset leave a service:** "
        + "; ".join(
            f"`{action.value}` ({', '.join(sorted(COLUMNS[each][0] for each in POLICY[action].who))} alone)" for action in bytes_leave
        )
        + ".",
        "",
        "**What is open to anybody, because it carries its own proof or is no secret:** "
        + ", ".join(f"`{each.value}`" for each in anybody)
        + ".",
        "",
    ]


def _tables(said: dict[Action, str], numbers: dict[Condition, int]) -> list[str]:
    lines = []
    for service, title in SERVICES.items():
        lines += [
            f"## {title}",
            "",
            "| Action | What it is | " + " | ".join(name for name, _ in COLUMNS.values()) + " | Conditions | Shown | Told | Recorded |",
            "|---|---|" + ":-:|" * len(COLUMNS) + "---|---|---|---|",
        ]
        lines += [_row(action, rule, said.get(action, ""), numbers) for action, rule in rows(service)]
        lines.append("")
    return lines


def _model() -> list[str]:
    return [
        "## Beside the model",
        "",
        "Hortus has the roles of Hopsworks, and grants a role what the last public server of Hopsworks (4.0-dev) grants it, or less. *own*: what they",
        f"made themselves, and nothing else. *{NOT_YET}*: it has no door here, and is refused to everybody, by every route, until what is named brings it.",
        "",
        "| What is done | Owner there | Scientist there | Owner here | Scientist here | By | Remark |",
        "|---|:-:|:-:|:-:|:-:|---|---|",
        *[_beside(line) for line in LINES],
        "",
        "What a role opens here beyond these lines:",
        "",
        *[f"- `{action.value}`: {reason}" for action, reason in BEYOND.items()],
        "",
    ]


def _beside(line: Line) -> str:
    here = [_here(line, column) for column in (Who.DATA_OWNER, Who.DATA_SCIENTIST)]
    there = [NO if grant is Grant.NO else grant.value for grant in (line.owner, line.scientist)]
    actions = ", ".join(f"`{action.value}`" for action in line.actions)
    refused = f"Allowed only if {line.refused_by.value}." if line.refused_by else ""
    remark = f"with {line.later}" if line.later else line.stricter or refused
    return "| " + " | ".join([line.what, *there, *here, actions, remark]) + " |"


def _here(line: Line, column: Who) -> str:
    """What the rows of a line's actions grant; its special case may be refused by a condition."""
    if line.later:
        return NOT_YET
    if line.refused_by:
        return NO
    marks = {(IF if POLICY[action].when else YES) if lets_in(POLICY[action], column) else NO for action in line.actions}
    return NO if NO in marks else IF if IF in marks else YES


def _row(action: Action, rule: Rule, words: str, numbers: dict[Condition, int]) -> str:
    marks = [(IF if rule.when else YES) if lets_in(rule, column) else NO for column in COLUMNS]
    conditions = ", ".join(f"[{numbers[condition]}](#condition-{numbers[condition]})" for condition in rule.when)
    told = "" if Who.NOBODY in rule.who else "hidden" if rule.hides else "yes"
    recorded = "opened, closed" if rule.carries_bytes else "change" if rule.who == SERVICE else "access"
    cells = [f"`{action.value}`", words.replace("|", "\\|"), *marks, conditions, _shown(rule), told, recorded]
    return "| " + " | ".join(cells) + " |"


def _shown(rule: Rule) -> str:
    if Who.NOBODY in rule.who:
        return "none"
    if rule.who <= {Who.AGENT, Who.JOB, Who.SERVICE}:
        return "own"
    return "fresh" if rule.step_up else "session" if rule.session else "any"


def _conditions(numbers: dict[Condition, int]) -> list[str]:
    lines = [
        "## Conditions",
        "",
        "Each is one rule on what is stored at that moment, checked in one place, by the service that owns it.",
        "",
    ]
    for condition, number in numbers.items():
        used = [(action, rule) for action, rule in POLICY.items() if condition in rule.when]
        actions = ", ".join(f"`{action.value}`" for action, _ in used)
        sentence = condition.value[0].upper() + condition.value[1:]
        lines.append(f'{number}. <a id="condition-{number}"></a>{sentence}. ({used[0][1].service.value}: {actions})')
    return [*lines, ""]


def _doors() -> list[str]:
    lines = [
        "## Doors",
        "",
        f"Where each action is asked for. A body holds at most {DEFAULT_BODY // KIB} KiB unless the door says otherwise.",
        "",
        "| Action | Door | Body |",
        "|---|---|---|",
    ]
    for action, rule in POLICY.items():
        body = "a stream" if rule.max_body is None else "" if rule.max_body == DEFAULT_BODY else f"{rule.max_body // KIB} KiB"
        lines.append(f"| `{action.value}` | `{rule.method} {API}{rule.path}` | {body} |")
    return lines
