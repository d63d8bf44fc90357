"""Help in groups, commands that are almost ones, and what shells complete."""

from pathlib import Path

import pytest

from ctxdeploy.cli.main import ALIKE, COMMANDS, GROUPS, cli


def test_every_command_is_in_one_group_of_the_help(call) -> None:
    assert len(COMMANDS) == sum(map(len, GROUPS.values()))
    lines = call("--help").out.splitlines()
    headings = [line for line in lines if line.removesuffix(":") in GROUPS]
    assert headings == [f"{heading}:" for heading in GROUPS]
    for name, text in COMMANDS.items():
        assert [line.split() for line in lines].count([name, *text.split()]) == 1
    assert set(ALIKE.values()) <= set(COMMANDS) and not set(ALIKE) & set(COMMANDS)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("idnex", "there is no command 'idnex'. Did you mean 'index'?"),
        ("qeury", "Did you mean 'query'?"),
        ("Info", "Did you mean 'info'?"),
        ("INDEX", "Did you mean 'index'?"),
        ("search", "Did you mean 'query'?"),
        ("rm", "Did you mean 'remove'?"),
        ("photos", "'photos' is a folder, and no command: run  ctxdeploy index FOLDER"),
        ("photos/a.jpg", "'photos/a.jpg' is a file, and no command"),
        ("xyzzy", "there is no command 'xyzzy': ctxdeploy --help  lists those that there are"),
        ("a\nb\x1b", r"there is no command 'a\nb\x1b'"),
    ],
)
def test_a_word_that_is_no_command(call, word: str, said: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    result = call(word, "x")
    start = f"ctxdeploy: error: {said if said[0] != 'D' else ''}"
    assert result.code == 2 and result.err.startswith(start) and result.err.count("\n") == 1
    assert said in result.err


@pytest.fixture
def complete(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch):
    """Complete the last word of a line, as bash asks for it, in a folder with archives."""
    for name in (
        "trip.ctxindex",
        "home.ctxindex",
        "my.ctxbundle",
        ".tmp-1-new.ctxindex",
        "photos",
        "sub/other.ctxindex",
    ):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def complete(*words: str) -> list[str]:
        monkeypatch.setenv("_CTXDEPLOY_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(("ctxdeploy", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        with pytest.raises(SystemExit) as end:
            cli.main(args=[], prog_name="ctxdeploy", standalone_mode=False)
        assert end.value.code == 0
        return capfd.readouterr().out.split()

    return complete


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("qu",), ["plain,query"]),
        (("info", "t"), ["plain,trip.ctxindex"]),
        (("info", "my"), ["plain,my.ctxbundle"]),
        (("verify", "ctx-s"), ["plain,ctx-small"]),
        (("compact", ""), ["plain,home.ctxindex", "plain,trip.ctxindex"]),
        (("compact", "sub/"), ["plain,sub/other.ctxindex"]),
        (("compact", "ph"), ["dir,ph"]),
        (("compact", "none/"), ["dir,none/"]),
        (("merge", "trip.ctxindex", "h"), ["plain,home.ctxindex"]),
        (("query", "--index", ""), ["plain,home.ctxindex", "plain,trip.ctxindex"]),
        (("query", "a.jpg", "--model", "my"), ["plain,my.ctxbundle"]),
        (("query", "ph"), ["file,ph"]),
        (("index", "ph"), ["file,ph"]),
        (("eval", "x", "--distractors", "tr"), ["plain,trip.ctxindex"]),
        (("eval", "x", "--codebook", "co"), ["file,co"]),
        (("query", "--precision", "b"), ["plain,bf16"]),
    ],
)
def test_what_a_shell_completes(complete, words: tuple[str, ...], found: list[str]) -> None:
    assert complete(*words) == found
