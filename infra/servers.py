"""The servers that the queue speaks to, with the words for what each may do wrong.

The advice depends on whose server it is: the embedded stack's, which `supermerge up` starts and has the
keys of, or one's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.errors import PASSING, Barred, Unavailable, Unreadable
from infra.settings import default_state_dir
from infra.state_file import embedded_ports
from merging.errors import MergeQueueError

_NO_LOGIN, _NO_RIGHT, _PROXY_LOGIN = 401, 403, 407
_PASSING = PASSING | {409, 412}
_LONGEST = 500  # Characters that are quoted of an answer.


@dataclass(frozen=True)
class Server:
    """One server, and what is known of how it was set up.

    Attributes:
        title: What people call it.
        address: Where it is.
        variable: The variable with its address.
        login: The variables that open it.
    """

    title: str
    address: str
    variable: str
    login: tuple[str, ...]

    @property
    def is_embedded(self) -> bool:
        """Whether `supermerge up` starts it, and so knows how to start it again."""
        ports = embedded_ports(default_state_dir())
        host, _, rest = self.address.partition("://")[2].partition(":")
        port = rest.partition("/")[0]
        return host == "127.0.0.1" and port.isdigit() and int(port) in ports

    def away(self, error: object) -> Unavailable:
        """It does not answer."""
        advice = f"See that it runs and can be reached from here, or correct {self.variable}."
        if self.is_embedded:
            advice = "Start it with `supermerge up`."
        return Unavailable(f"{self.at} does not answer ({said(error)}).", advice)

    def barred(self, error: object) -> Barred:
        """It does not know who asks."""
        advice = f"Set {' and '.join(self.login)} to what it knows."
        if self.is_embedded:
            advice = (
                f"It is the embedded stack's: unset {' and '.join(self.login)} and run "
                "`supermerge up`, which knows the right ones."
            )
        return Barred(f"{self.at} does not let us in ({said(error)}).", advice)

    def strange(self, error: object) -> Unavailable:
        """What answers there is something else."""
        return Unavailable(
            f"What answers at {self.address} is not {self.title.removeprefix('The ')} ({said(error)}).",
            f"Something else listens there, or a proxy is in between: correct {self.variable}.",
        )

    def failed(self, asked: str, error: object) -> Unavailable:
        """It did not do what it was asked for, which may pass."""
        advice = "Try again; if it stays so, read the server's log."
        return Unavailable(f"{self.at} failed on {asked} ({said(error)}).", advice)

    def answered(self, status: int, asked: str, answer: object) -> MergeQueueError:
        """It answered a request with an error.

        Args:
            status: The HTTP status.
            asked: What was asked for.
            answer: What it said.
        """
        words = f"{self.at} answered {status} to {asked}: {said(answer)}"
        if status in (_NO_LOGIN, _PROXY_LOGIN):
            return self.barred(f"{status} to {asked}: {said(answer)}")
        if status == _NO_RIGHT:
            return Unreadable(words, f"Give that right to whom {' and '.join(self.login)} name.")
        if passes(status) and status >= 400:
            return Unavailable(words, self.failed(asked, answer).remedy)
        if status < 400:
            return self.strange(f"{status} to {asked}")
        return Unreadable(words, "Look at what was asked for; the server's log may say more.")

    @property
    def at(self) -> str:
        """How a sentence about it begins."""
        return f"{self.title} at {self.address}"


def s3_server(endpoint: str | None) -> Server:
    """The object store."""
    login = ("SUPERMERGE_S3_ACCESS_KEY", "SUPERMERGE_S3_SECRET_KEY")
    return Server("The object store", endpoint or "AWS", "SUPERMERGE_S3_ENDPOINT", login)


def mlflow_server(address: str) -> Server:
    """The registry."""
    login = ("SUPERMERGE_MLFLOW_USERNAME", "SUPERMERGE_MLFLOW_PASSWORD")
    return Server("MLflow", address, "SUPERMERGE_MLFLOW_URI", login)


def prefect_server(address: str) -> Server:
    """What runs the flows."""
    return Server("Prefect", address, "SUPERMERGE_PREFECT_API", ("SUPERMERGE_PREFECT_AUTH",))


def passes(status: int) -> bool:
    """Whether another try may not meet an HTTP status again."""
    return not 400 <= status < 500 or status in _PASSING


def said(error: object) -> str:
    """What an error or an answer says, in one line that is no longer than one reads."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words.removesuffix(".")[:_LONGEST]
