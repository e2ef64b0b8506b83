"""The page for signing in: whole in itself, and it runs nothing that is not in it."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from chassis.errors import NotFound, TooManyRequests
from services.auth.domain.flows import return_path
from services.auth.routes.pages import problem_page
from tests.world import World


class Reader(HTMLParser):
    """What a page consists of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sources: dict[str, list[str]] = {}
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the parser's own signature
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            self.sources.setdefault(self.inside, []).append(data)


def directives(policy: str) -> dict[str, str]:
    return {name: rest for name, _, rest in (part.strip().partition(" ") for part in policy.split(";"))}


def digest(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


async def test_the_policy_of_the_page_lets_in_its_own_script_and_style_and_nothing_else(world: World) -> None:
    answer = await world.get("/sign-in")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Reader(answer.text)
    assert directives(answer.headers["content-security-policy"]) == {
        "default-src": "'none'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "connect-src": "'self'",
        "script-src": digest("".join(page.sources["script"])),
        "style-src": digest("".join(page.sources["style"])),
    }
    assert answer.headers["referrer-policy"] == "same-origin"


async def test_nothing_of_the_page_is_loaded_or_handled_inline(world: World) -> None:
    page = Reader((await world.get("/sign-in")).text)
    for tag, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style", "action")}, tag
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
    assert not re.search(r"https?://", "".join(page.sources["style"]))
    assert set(re.findall(r"https?://[^`\"?]*", "".join(page.sources["script"]))) == {"http://127.0.0.1:${port}/", "https://"}


async def test_each_field_of_the_page_has_a_label(world: World) -> None:
    page = Reader((await world.get("/sign-in")).text)
    labelled = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
    fields = [attributes for tag, attributes in page.tags if tag == "input" and attributes.get("type") != "radio"]
    assert fields
    assert {field["id"] for field in fields} <= labelled
    assert [attributes.get("lang") for tag, attributes in page.tags if tag == "html"] == ["en"]


def test_a_refusal_is_a_page_of_one_sentence_with_the_reason_that_the_gateway_records() -> None:
    class Odd(NotFound):
        title = "<script>alert('x')</script>"

    page = problem_page(Odd())
    assert (page.status_code, page.headers["hortus-reason"]) == (404, "odd")
    assert b"<script" not in page.body
    assert "script-src" not in page.headers["content-security-policy"]
    assert directives(page.headers["content-security-policy"])["default-src"] == "'none'"
    assert problem_page(TooManyRequests(retry_after=7)).headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "to",
    [
        "//evil.example.org",
        "/\\evil.example.org",
        "https://evil.example.org",
        "javascript:alert(1)",
        "",
        "/a b",
        "/a#b",
        "/\n",
        "/é",
        "/" + "x" * 1024,
        "/projects/1?tab=files",
        "/api/v1/oidc/other/start",
        "/api/v1/sign-in/../oidc/other/start",
        "/api/v1/sign-in;x?y",
        None,
    ],
)
def test_nobody_is_sent_to_another_place_after_signing_in(to: str | None) -> None:
    assert return_path(to) == "/api/v1/sign-in"


def test_after_signing_in_a_browser_goes_where_it_wanted() -> None:
    assert return_path("/api/v1/sign-in?client_port=4711&state=s") == "/api/v1/sign-in?client_port=4711&state=s"
