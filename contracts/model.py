"""What the model of Hopsworks grants its two roles, beside what is granted here: the same or less, and a reason wherever it is less.

Written by hand from what the last public server (4.0-dev, November 2024) does, in words of our own; ``policy.py`` is the other book, and
``tests/contracts/test_model.py`` balances the two. ``docs/policy.md`` shows the comparison.
"""

from dataclasses import dataclass
from enum import StrEnum

from contracts.policy import Action, Condition
from contracts.roles import Role


class Grant(StrEnum):
    """What the model lets a role do."""

    YES = "yes"
    OWN = "own"
    """What they made themselves, and nothing else."""
    NO = "no"


@dataclass(frozen=True)
class Line:
    """One thing that people do there, and whom the model lets do it; ``actions`` are it here, or ``later`` names what will bring it.

    ``withheld``: the roles that are refused here although the model lets them in. ``stricter``: why, or under which condition they are let in.
    ``refused_by``: the condition that refuses this special case of ``actions`` to both roles.
    """

    what: str
    owner: Grant
    scientist: Grant
    actions: tuple[Action, ...] = ()
    stricter: str = ""
    withheld: tuple[Role, ...] = ()
    refused_by: Condition | None = None
    later: str = ""


def _both(what: str, *actions: Action, stricter: str = "", withheld: tuple[Role, ...] = (), later: str = "") -> Line:
    return Line(what, Grant.YES, Grant.YES, actions, stricter, withheld, later=later)


def _owner(what: str, *actions: Action, later: str = "") -> Line:
    return Line(what, Grant.YES, Grant.NO, actions, later=later)


SCIENTIST = (Role.DATA_SCIENTIST,)
NO_EXPORT = "An owner takes out what comes from the own project alone. All else leaves by a request that owners of its origin approve, which comes with the airlock."
NO_IMPORT = "Data Scientists bring nothing in; what their jobs make inside arrives as a job's output."
AIRLOCK = "files and the airlock"
FEATURES = "the feature store"
TOPICS = "topics"
SERVING = "serving"

LINES = (
    _both("read what is known of a project", Action.PROJECT_READ),
    _both("see who is a member", Action.MEMBER_LIST, Action.GROUP_ROLE_LIST),
    _both("see datasets, their files and shares", Action.DATASET_LIST, Action.DATASET_READ, Action.FILE_LIST),
    _both("see what is shared, from here and to here", Action.SHARE_LIST, Action.SHARE_LIST_INCOMING),
    _both(
        "see jobs and how they went",
        Action.JOB_LIST,
        Action.JOB_READ,
        Action.JOB_LOG,
        stricter="Logs and results have a budget for the day.",
    ),
    _both("see topics and their schemas", later=TOPICS),
    _both("see feature groups", later=FEATURES),
    _both("search", Action.SEARCH),
    _owner("add a member", Action.MEMBER_ADD, Action.PROJECT_INVITATION_CREATE, Action.PROJECT_INVITATION_WITHDRAW, Action.GROUP_ROLE_GIVE),
    _owner("change a member's role", Action.MEMBER_CHANGE),
    _owner("remove somebody else", Action.MEMBER_REMOVE, Action.GROUP_ROLE_REMOVE),
    _both("leave", Action.MEMBER_LEAVE),
    _owner("edit a project", Action.PROJECT_CHANGE, Action.PROJECT_ARCHIVE, Action.PROJECT_RESTORE),
    _owner("switch a project's services", later="services by project"),
    _owner("delete a project", Action.PROJECT_DELETE),
    _owner("create a dataset, say what it is", Action.DATASET_CREATE, Action.DATASET_CHANGE),
    _owner("delete a dataset", later=AIRLOCK),
    _owner("choose who writes into a dataset", later=AIRLOCK),
    _both("write into a dataset that both roles may write", Action.FILE_UPLOAD, stricter=NO_IMPORT, withheld=SCIENTIST),
    _owner("write into a dataset that owners may write", Action.FILE_UPLOAD),
    Line("write into a dataset that can only be read", Grant.NO, Grant.NO, later=f"such datasets, and {AIRLOCK}"),
    _owner("share a dataset, end a share", Action.SHARE_OFFER, Action.SHARE_WITHDRAW),
    _owner("accept a share", Action.SHARE_ACCEPT),
    _owner("reject a share", later=AIRLOCK),
    _owner("change what a share allows", later=AIRLOCK),
    _owner("publish a dataset to everybody, import one", later=AIRLOCK),
    Line("delete or move files", Grant.YES, Grant.OWN, later=AIRLOCK),
    Line("download in the browser", Grant.YES, Grant.OWN, (Action.FILE_DOWNLOAD,), NO_EXPORT, SCIENTIST),
    _both("download by API key, token or certificate", Action.FILE_DOWNLOAD, stricter=NO_EXPORT, withheld=SCIENTIST),
    Line("download a file that is shared in", Grant.NO, Grant.NO, (Action.FILE_DOWNLOAD,), refused_by=Condition.ORIGINS_ARE_OWN),
    _both("upload a file", Action.FILE_UPLOAD, stricter=NO_IMPORT, withheld=SCIENTIST),
    _owner("create, change, clear or delete a feature group or a storage connector", later=FEATURES),
    _both("create a feature view or training data", later=FEATURES),
    Line("change or delete a feature view or training data", Grant.YES, Grant.OWN, later=FEATURES),
    _owner("set tags and keywords", later=FEATURES),
    _both("read tags and keywords", later=FEATURES),
    _both("create, run and stop a job", Action.JOB_SUBMIT, Action.JOB_CANCEL),
    _both("let a job run at certain times", later="jobs"),
    _owner("delete a job", later="jobs"),
    _both("work in notebooks and workflows, with git, in an own Python environment", later="notebooks"),
    _owner("create or delete a topic, set its compatibility", later=TOPICS),
    _both("add a version of a schema", later=TOPICS),
    _owner("create, change, start, stop or delete a served model", later=SERVING),
    _both("see served models and their logs", later=SERVING),
    _owner("set alerts, who receives them, and silences", later="alerts"),
    _both("see alerts, who receives them, and silences", later="alerts"),
)

BEYOND: dict[Action, str] = {
    Action.PROJECT_INVITATION_LIST: "Whom owners asked and who has not answered is theirs to know.",
    Action.ACTIVITY_LIST: "Whoever works in a project may see what happened to it.",
    Action.PROJECT_BREAK_GLASS_LIST: "Owners see who opened their project in an emergency.",
    Action.PROJECT_BREAK_GLASS_REVIEW: "Owners judge whether an emergency was one.",
    Action.CERTIFICATE_CREATE: "The model hands every member one that lasts ten years; here they ask for one of hours, with a key of their own.",
    Action.CERTIFICATE_LIST: "Members see their own, owners all of the project.",
    Action.CERTIFICATE_REVOKE: "Members end their own, owners any of the project.",
}
"""What a role in a project opens here that the model has no line for, each with its reason."""
