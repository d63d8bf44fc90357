"""Options made from configuration dataclasses: each value reaches its field, defaults stay those of the dataclass."""

import json
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ctxdeploy.cli.options import configured, options_of, with_values
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import parse_bytes, parse_numbers, setting, settings_of


@dataclass(frozen=True, kw_only=True)
class Inner:
    pixels: int = setting(7, "--pixels", "A number inside.")
    torn: bool = setting(False, "--torn", "A switch inside.")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Every kind of field that an option can have."""

    count: int = setting(3, "--count", "A number.", metavar="N")
    share: float | None = setting(None, "--share", "A fraction.", default_text="all")
    file: Path | None = setting(None, "-f --file", "A path.")
    idf: bool | None = setting(None, "--idf/--no-idf", "A switch with three states.")
    kind: str = setting("one", "--kind", "A choice.", choices=("one", "two"))
    size: int | None = setting(None, "--size", "Bytes.", parse=parse_bytes)
    made: int = setting(default_factory=lambda: 11, flag="--made", help="From a factory.")
    inner: Inner = Inner()
    hidden: int = 5

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"--count {self.count} is negative")


@click.command()
@options_of(Outer)
def command() -> None:
    click.echo(repr(configured(Outer)))


def run(*arguments: str) -> Outer:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    made: Outer = eval(result.output, {"Outer": Outer, "Inner": Inner, "PosixPath": Path})
    return made


def test_without_options_the_dataclass_decides() -> None:
    assert run() == Outer()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--count", "9"], Outer(count=9)),
        (["--share", "0.5"], Outer(share=0.5)),
        (["-f", "a b"], Outer(file=Path("a b"))),
        (["--file", "c"], Outer(file=Path("c"))),
        (["--idf"], Outer(idf=True)),
        (["--no-idf"], Outer(idf=False)),
        (["--kind", "two"], Outer(kind="two")),
        (["--size", "2KiB"], Outer(size=2048)),
        (["--made", "1"], Outer(made=1)),
        (["--pixels", "8", "--torn"], Outer(inner=Inner(pixels=8, torn=True))),
        (["--count", "3"], Outer()),
    ],
)
def test_each_option_sets_its_field(arguments: list[str], wanted: Outer) -> None:
    assert run(*arguments) == wanted


def test_what_the_dataclass_refuses_is_refused() -> None:
    with pytest.raises(ConfigError, match="--count -1 is negative"):
        CliRunner().invoke(command, ["--count", "-1"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="--size 'much' is not an amount of memory"):
        CliRunner().invoke(command, ["--size", "much"], catch_exceptions=False)
    assert CliRunner().invoke(command, ["--kind", "three"]).exit_code == 2


def test_help_names_each_option_once_with_its_default() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    for field in settings_of(Outer):
        assert text.count(field.setting.help) == 1
    assert "[default: 3]" in text and "[default: all]" in text and "[default: one]" in text
    assert "11" not in text and "hidden" not in text


@pytest.mark.parametrize(
    ("text", "value"), [("4GB", 4 * 10**9), ("512MiB", 512 << 20), ("12", 12), ("1.5k", 1500), ("2 GiB", 2 << 30)]
)
def test_amounts_of_memory(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "GB", "1.2.3", "4XB", "-1"])
def test_what_is_not_an_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount"):
        parse_bytes(text)


def test_numbers() -> None:
    assert json.dumps(parse_numbers("1.414,1,.5")) == "[1.414, 1.0, 0.5]"
    with pytest.raises(ValueError, match="is not a list"):
        parse_numbers("1,,2")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An option that may stand alone."""

    kept: str = setting("none", "--keep", "What is kept.", choices=("some", "all"), alone="some")


@pytest.mark.parametrize(
    ("args", "kept", "place"),
    [
        (["here"], "none", "here"),
        (["--keep", "here"], "some", "here"),
        (["here", "--keep"], "some", "here"),
        (["--keep", "-q", "here"], "some", "here"),
        (["--keep", "all", "here"], "all", "here"),
        (["--keep=all", "here"], "all", "here"),
        (["here", "--keep", "all", "--keep"], "some", "here"),
        (["--", "--keep"], "none", "--keep"),
        (["--keep", "--", "all"], "some", "all"),
    ],
)
def test_an_option_that_may_stand_alone_takes_no_argument_of_the_command(
    args: list[str], kept: str, place: str
) -> None:
    class Command(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            return super().parse_args(ctx, with_values(args, Kept))

    @click.command(cls=Command)
    @click.argument("where")
    @click.option("-q", is_flag=True)
    @options_of(Kept)
    def command(where: str, q: bool) -> None:
        click.echo(json.dumps([configured(Kept).kept, where]))

    result = CliRunner().invoke(command, args)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == [kept, place]


def test_there_may_be_no_arguments() -> None:
    assert with_values([], Kept) == []
