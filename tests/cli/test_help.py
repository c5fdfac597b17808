"""Options and defaults in `--help`, and the forms of boolean options."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from q2pi import __main__ as cli
from q2pi.commands.options import parse
from q2pi.errors import UserError

ATARI = ["--protocol", "--noop-max", "--max-pool", "--life-loss-discount", "--full-action-space"]


@pytest.fixture
def help_of(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that returns the help of a command, on one line without the boxes."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main([*arguments, "--help"])
        assert stop.value.code == 0
        out, err = capfd.readouterr()
        assert err == ""
        return " ".join(re.sub("[│╭╮╰╯─]", " ", out).split())

    return run


@pytest.mark.parametrize("command", ["train", "tune"])
def test_other_environments_have_no_atari_options(command: str, help_of: Callable[..., str]) -> None:
    text = help_of(command, "dqn", "--env-id", "CartPole-v1")
    assert "--env-options" in text
    assert "--clip-rewards" in text
    assert [flag for flag in ATARI if flag in text] == []


@pytest.mark.parametrize("command", ["train", "tune"])
def test_atari_has_no_options_of_gymnasium_environments(command: str, help_of: Callable[..., str]) -> None:
    text = help_of(command, "dqn", "--env-id", "Pong")
    assert "--env-options" not in text
    assert [flag for flag in ATARI if flag not in text] == []


def default_of(text: str, flag: str) -> str:
    match = re.search(rf"{flag}\b[^(]*(?:\((?!default)[^)]*\)[^(]*)*\(default: ([^)]*)\)", text)
    assert match is not None
    return match[1]


def test_defaults_are_those_of_the_resolved_environment(help_of: Callable[..., str]) -> None:
    atari, cartpole = help_of("train", "dqn", "--env-id", "Pong"), help_of("train", "--env-id", "CartPole-v1")
    inspect = help_of("inspect")
    for text in (atari, inspect):
        assert "--grayscale, --no-grayscale" in text
        assert (default_of(text, "--grayscale"), default_of(text, "--resize")) == ("True", "84 84")
    assert (default_of(atari, "--stack"), default_of(cartpole, "--stack")) == ("4", "1")
    assert (default_of(atari, "--clip-rewards"), default_of(cartpole, "--clip-rewards")) == ("True", "False")
    assert default_of(atari, "--crop") == "None", "no crop"


def test_help_for_an_environment_with_missing_packages(
    help_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(spec: Any) -> Any:
        raise UserError("--env-id CartPole-v1 needs more packages")

    monkeypatch.setattr("q2pi.commands.help.resolve", refuse)
    assert "--stack {None}|INT" in help_of("train", "dqn", "--env-id", "CartPole-v1")


@pytest.mark.parametrize("command", ["train", "tune"])
def test_the_algorithm_is_the_first_argument_only(
    command: str, help_of: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert "--algorithm" not in help_of(command, "dqn")
    for form in (["--algorithm", "ppo"], ["--algorithm=ppo"]):
        assert cli.main([command, "dqn", *form]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"q2pi: --algorithm: name the algorithm first, as in q2pi {command} ppo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "nature"], "--protocol nature applies to Atari games, not to CartPole-v1"),
        (["--grayscale=no"], "--no-grayscale applies to images, and CartPole-v1 observes none"),
        (["--life-loss-discount"], "--life-loss-discount applies to Atari games, not to CartPole-v1"),
    ],
)
def test_a_hidden_option_names_the_reason(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "dqn", "--env-id", "CartPole-v1", *arguments]) == 2
    assert capfd.readouterr().err == f"q2pi: {message}\n"


def test_env_options_of_an_atari_game_name_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "dqn", "--env-id", "Pong", "--env-options", "x=1"]) == 2
    assert capfd.readouterr().err == "q2pi: --env-options x=1 applies to Gymnasium environments, not to Atari games\n"


# ---- any dataclass ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    """Rules
    of a thing."""

    maybe: bool | None = None
    """Rule; None leaves it
    (as here) to the thing,
    1 by default."""


@dataclass(frozen=True)
class Base:
    plain: bool = True
    """Plain
    *boolean*."""


@dataclass(frozen=True)
class Outer(Base):
    words: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)
    after: int = 0
    """Number.

    0 disables it."""


def parsed(*arguments: str, **more: Any) -> Outer:
    return parse(Outer, "thing", "A thing.", list(arguments), **more)


@pytest.mark.parametrize("word", ["true", "yes", "1", "True", "YES"])
@pytest.mark.parametrize("name", ["plain", "maybe"])
def test_words_for_true(name: str, word: str) -> None:
    start = Outer(plain=False, inner=Inner(maybe=False))
    for arguments in ([f"--{name}", word], [f"--{name}={word}"], [f"--{name}"], [f"--no-{name}", f"--{name}", word]):
        options = parsed(*arguments, default=start)
        assert (options.plain if name == "plain" else options.inner.maybe) is True
        assert options != start


@pytest.mark.parametrize("word", ["false", "no", "0", "False"])
@pytest.mark.parametrize("name", ["plain", "maybe"])
def test_words_for_false(name: str, word: str) -> None:
    start = Outer(plain=True, inner=Inner(maybe=True))
    for arguments in ([f"--{name}", word], [f"--{name}={word}"], [f"--no-{name}"], [f"--{name}", f"--no-{name}"]):
        options = parsed(*arguments, default=start)
        assert (options.plain if name == "plain" else options.inner.maybe) is False
        assert options != start


def test_a_boolean_takes_no_other_word() -> None:
    assert parsed("--plain", "--after", "1", "--words", "no", "yes") == Outer(words=("no", "yes"), after=1)
    assert parsed("--maybe", "None", default=Outer(inner=Inner(maybe=True))).inner.maybe is None
    with pytest.raises(UserError, match=r"^--plain=maybe: the value must be true or false$"):
        parsed("--plain=maybe")
    for arguments in (["--plain", "maybe"], ["--no-plain=false"], ["--no-after"]):
        with pytest.raises(UserError, match="nrecognized"):
            parsed(*arguments)


def shown(capfd: pytest.CaptureFixture[str], **more: Any) -> list[str]:
    with pytest.raises(SystemExit):
        parsed("-h", **more)
    return [line.strip(" │") for line in capfd.readouterr().out.splitlines()]


def test_line_breaks_of_the_source_are_joined(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    text = "\n".join(shown(capfd))
    for line in (
        "Plain *boolean*.",
        "Rules of a thing.",
        "Rule; None leaves it (as here) to the thing, 1 by default.",
    ):
        assert line in text
    assert "Number. 0 disables it. (default: 0)" in text


def test_help_shows_given_defaults_without_hidden_and_refused_fields(
    capfd: pytest.CaptureFixture[str],
) -> None:
    resolved = Outer(plain=False, inner=Inner(maybe=True), after=7)
    text = "\n".join(shown(capfd, help_default=lambda: resolved, hidden={"words"}, refused={"plain": "no"}))
    assert "--maybe, --no-maybe" in text
    assert "(default: 7)" in text
    assert "--words" not in text
    assert "--plain" not in text
    assert parsed("--words", "a", hidden={"words"}).words == ("a",)
    with pytest.raises(UserError, match=r"^--plain: no"):
        parsed("--plain", "1", refused={"plain": "no"})
