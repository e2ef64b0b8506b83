"""A Java that is too old, or none at all, is one sentence with the fix."""

from pathlib import Path

import pytest

from compose.local import account, java
from compose.local.problems import SetupProblem


def fake(folder: Path, version: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(("text", "version"), [("17.0.15", 17), ("25", 25), ("1.8.0_392", 8), ("21-ea", 21)])
def test_versions_are_read(tmp_path: Path, text: str, version: int) -> None:
    assert java.version_of(fake(tmp_path / "jdk", text) / "bin" / "java") == version


def test_what_is_no_java_has_no_version(tmp_path: Path) -> None:
    assert java.version_of(Path("/bin/true")) is None
    assert java.version_of(tmp_path / "missing") is None


def test_a_named_java_is_taken(tmp_path: Path) -> None:
    old = fake(tmp_path / "new", "21.0.1")
    assert java.find_java(account.current(), {"HORTUS_JAVA_HOME": str(old)}) == old / "bin" / "java"


def test_a_named_java_that_is_too_old_is_refused(tmp_path: Path) -> None:
    old = fake(tmp_path / "old", "11.0.2")
    with pytest.raises(SetupProblem, match="names a Java 11, and Hortus needs 17 or newer; name another folder"):
        java.find_java(account.current(), {"HORTUS_JAVA_HOME": str(old)})


def test_a_named_folder_without_java_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupProblem, match="where no bin/java answers"):
        java.find_java(account.current(), {"HORTUS_JAVA_HOME": str(tmp_path)})


def test_an_old_java_home_is_passed_over_for_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "FOLDERS", (str(tmp_path),))
    old, new = fake(tmp_path / "jdk-11", "11.0.2"), fake(tmp_path / "jdk-17", "17.0.1")
    assert java.find_java(account.current(), {"JAVA_HOME": str(old), "PATH": ""}) == new / "bin" / "java"


def test_no_java_at_all_is_one_sentence_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "FOLDERS", ())
    monkeypatch.setattr(java, "_may_install", lambda: False)
    with pytest.raises(SetupProblem, match=r"^Hortus needs Java 17 or newer; install it .* HORTUS_JAVA_HOME\.$"):
        java.find_java(account.current(), {"PATH": str(tmp_path)})


def test_on_debian_root_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(java, "_may_install", lambda: True)
    monkeypatch.setattr(java, "_install", lambda: fake(tmp_path / "installed", "17.0.15"))
    assert java.find_java(account.current(), {"PATH": ""}) == tmp_path / "installed" / "bin" / "java"
