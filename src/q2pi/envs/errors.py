"""What an environment does wrong, named as the environment's."""

from q2pi.errors import UserError


class EnvError(UserError):
    """An environment raised an exception, or returned what Gymnasium's interface does not allow.

    `__cause__` is the environment's own exception if it raised one, with its traceback; else None.

    Args:
        env_id: canonical name of the environment.
        problem: what happened and, if it can be known, what to do.
        env_index: index of the environment among those that are stepped together; None if it could not be made.
    """

    def __init__(self, env_id: str, problem: str, env_index: int | None = None) -> None:
        super().__init__(env_id, problem, env_index)
        self.env_id, self.problem, self.env_index = env_id, problem, env_index
        self.episode_index: int | None = None
        """Index of the episode among those of the environment, from 0; None if no episode is concerned."""
        self.step = 0
        """Number of the step within the episode, from 1; 0 is the reset."""

    def locate(self, episode_index: int, step: int) -> None:
        """Add where in the run it happened."""
        self.episode_index, self.step = episode_index, step

    def __str__(self) -> str:
        place = []
        if self.env_index is not None:
            place.append(f"environment {self.env_index}")
        if self.episode_index is not None:
            place.append(f"episode {self.episode_index}")
            place.append(f"step {self.step}" if self.step else "reset")
        return f"--env-id {self.env_id}: {self.problem}" + (f" ({', '.join(place)})" if place else "")


def first_line(error: BaseException) -> str:
    """Return the class of an exception and the first line of its message."""
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
