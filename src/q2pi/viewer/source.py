"""Sources of agents: the newest checkpoint of a run folder, kept up to date while training writes new ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from q2pi.algorithms.base import Agent
from q2pi.algorithms.build import restore
from q2pi.config import ResolvedConfig
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_agent, load_state_of_agent
from q2pi.runs.manifest import steps


@dataclass
class Loaded:
    """An agent, its configuration, and the agent steps of its checkpoint."""

    agent: Agent
    config: ResolvedConfig[Any]
    step: int


class Source(Protocol):
    """Where an agent comes from."""

    title: str
    """A short name for the page."""

    def load(self) -> Loaded:
        """Return the agent.

        Raises:
            UserError: there is none; the message is shown on the page.
        """

    def refresh(self, loaded: Loaded) -> tuple[Loaded, str]:
        """Return (the newest agent, what is wrong with the source or "").

        `loaded` is returned unchanged if it is the newest; a new agent may share the networks of `loaded`.
        """


class RunSource:
    """The newest checkpoint of a run folder."""

    def __init__(self, path: Path) -> None:
        self.run = RunFolder(path)
        self.title = path.name or str(path)
        self._config_text: bytes | None = None
        self._seen: tuple[bytes | None, list[int]] = (None, [])
        """Content of config.toml and the newest checkpoint at the last look: a damaged one is not read repeatedly."""
        self._problem = ""
        """What was wrong at the last look."""

    def load(self) -> Loaded:
        run = RunFolder.open(self.run.path)
        text = _read(run.config_file)
        try:
            agent, config, step, _ = load_agent(run)
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as problem:
            raise UserError(f"{run.path} cannot be read: another version of q2pi wrote it ({problem!r})") from problem
        self._config_text = text
        return Loaded(agent, config, step)

    def refresh(self, loaded: Loaded) -> tuple[Loaded, str]:
        text = _read(self.run.config_file)
        if text is None:
            return loaded, f"{self.run.path} was deleted; the agent that was loaded from it goes on"
        seen = (text, steps(self.run.checkpoints)[-1:])
        if seen == self._seen:
            return loaded, self._problem
        self._seen, self._problem = seen, ""
        try:
            if text != self._config_text:
                return self.load(), ""
            if not seen[1] or seen[1][0] == loaded.step:
                return loaded, ""
            step, state, _ = load_state_of_agent(self.run)
            restore(loaded.agent, state)
        except UserError as problem:
            self._problem = str(problem)
            return loaded, self._problem
        return Loaded(loaded.agent, loaded.config, step), ""


def _read(path: Path) -> bytes | None:
    """Return the content of a file, None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
