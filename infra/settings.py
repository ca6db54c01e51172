"""Where the servers are and what opens them: one frozen value, from the environment or the stack.

settings = Settings.load()   # SUPERMERGE_* variables first, then what `supermerge up` wrote down
settings.apply()             # before mlflow, boto3 or prefect are imported: they read os.environ
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ByteSize,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_serializer,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.shell import CLIENT_DEFAULTS, JSON_LOGS, OTHER_KEYS, past_proxies
from infra.state_file import read_state_file, state_file
from merging.errors import InvalidInput

PREFIX = "SUPERMERGE_"
_FOR_TESTS = PREFIX + "TEST_"
CODE = Path(__file__).resolve().parents[1]
"""Where the four packages lie: the checkout, or the site-packages that a wheel was installed to."""
PROJECT = CODE if (CODE / "pyproject.toml").is_file() else Path.cwd()
"""Where people keep families and state: the checkout, else the folder they call a command in."""

Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
# Credentials have their own fields; inside an address they would end up in logs.
URL = r"^https?://[^\s/@]+(/[^\s@]*[^\s/@])?$"
Url = Annotated[str, StringConstraints(pattern=URL)]
# In trials and tests MLflow's own client works on a database file.
MlflowUri = Annotated[str, StringConstraints(pattern=rf"{URL}|^sqlite:////[^\s]+$")]
Checksum = Literal["sha256", "crc32", "none"]
BucketName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]


class Settings(BaseSettings):
    """Addresses, credentials and folders that every part reads and none changes.

    Attributes:
        state_dir: State of the embedded stack: databases, logs, secrets. By default `.supermerge` in
            the checkout or, where the package is installed, in the present folder.
        cache_dir: What was pulled from S3, by content, and what merges work in. By default `cache` in
            the state folder.
        cache_size: How large that folder may become, as in `200GB`; what was used least lately goes
            first. What a run needs it keeps, be it more.
        project_dir: Where `flows/` lies; workers run the flows from there. By default wherever the
            package is.
        families_dir: Family files, one each. By default `families` in the checkout or the present
            folder, and the demo's family where there is no such folder.
        bucket: Bucket of MLflow's artifacts; a family file names its own. The embedded stack makes it.
        s3_endpoint: Address of an S3 server, or `https://s3.<region>.amazonaws.com`; without it AWS.
        s3_access_key: With the secret key, or neither: then boto3's own chain (profile, role, `AWS_*`).
        s3_secret_key: The other half.
        s3_region: Where the server cares.
        s3_checksum: What a server checks uploads by; `none` for those that refuse such a header.
        store_dir: A folder in place of S3, for trials and tests.
        mlflow_uri: MLflow's tracking and registry server; `sqlite:////…` in one process, for tests.
        mlflow_artifact_root: The `s3://` folder behind the server's `mlflow-artifacts:` scheme, so that
            an expert logged through it is read straight from S3; none where that scheme is not used.
        mlflow_username: With a password, where MLflow asks for them.
        mlflow_password: The other half.
        prefect_api: Address of Prefect's server; ends in `/api`.
        prefect_auth: `name:password`, where Prefect asks for it; the embedded one does when it is set.
        receiver_url: The webhook receiver as MLflow reaches it; none where only the schedule starts
            merges.
        webhook_secret: Shared by MLflow, which signs, and the receiver, which verifies.
        log_format: `json` makes each line of the logs of flows, receiver and commands a JSON object with
            run, family and expert.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    state_dir: Folder = Field(default_factory=lambda: default_state_dir())
    cache_dir: Folder = Field(default_factory=lambda fields: fields["state_dir"] / "cache")
    cache_size: ByteSize = Field(default=ByteSize(50 * 10**9), ge=0)
    project_dir: Folder = CODE
    families_dir: Folder = Field(default_factory=lambda: default_families_dir())

    bucket: BucketName = "supermerge"
    s3_endpoint: Url | None = None
    s3_access_key: SecretStr | None = None
    s3_secret_key: SecretStr | None = None
    s3_region: str | None = None
    s3_checksum: Checksum = "sha256"
    store_dir: Folder | None = None

    mlflow_uri: MlflowUri
    mlflow_artifact_root: str | None = None
    mlflow_username: str | None = None
    mlflow_password: SecretStr | None = None

    prefect_api: Annotated[Url, StringConstraints(pattern=r"/api$")]
    prefect_auth: SecretStr | None = None

    receiver_url: Url | None = None
    webhook_secret: SecretStr | None = None

    log_format: Literal["text", "json"] = "text"

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> Self:
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            raise ValueError("s3_access_key and s3_secret_key: give both, or neither")
        if (self.mlflow_username is None) != (self.mlflow_password is None):
            raise ValueError("mlflow_username and mlflow_password: give both, or neither")
        return self

    @field_serializer(
        "s3_access_key",
        "s3_secret_key",
        "mlflow_password",
        "prefect_auth",
        "webhook_secret",
        when_used="json",
    )
    def _reveal(self, secret: SecretStr | None, info: Any) -> str | None:
        """In clear only where asked for: `model_dump_json(context={"reveal": True})`."""
        if secret is None:
            return None
        return secret.get_secret_value() if (info.context or {}).get("reveal") else str(secret)

    @classmethod
    def load(cls, state_dir: Path | None = None) -> Self:
        """Settings from SUPERMERGE_* variables, then from the state file of the embedded stack.

        Args:
            state_dir: Where to look for the stack's state; default as `default_state_dir` says.

        Raises:
            InvalidInput: As `of` does.
        """
        folder = state_dir or default_state_dir()
        written = read_state_file(folder).get("settings", {})
        values = {
            name: value for name, value in written.items() if _variable(name) not in os.environ
        }
        return cls.of({**values, "state_dir": folder}, f"environment, then {state_file(folder)}")

    @classmethod
    def of(cls, values: dict[str, Any], where: str) -> Self:
        """Settings from values, and from SUPERMERGE_* variables for the fields without one.

        Raises:
            InvalidInput: A value is missing or malformed, or there is a SUPERMERGE_* variable that
                means nothing; says what to set.
        """
        _refuse_unknown_variables(cls)
        try:
            return cls(**values)
        except ValidationError as error:
            faults = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors()]
            fields = sorted({_variable(name) for name, _ in faults if name in cls.model_fields})
            raise InvalidInput(
                where=f"settings ({where})",
                expected="every address and credential",
                found="; ".join(f"{name or 'settings'}: {message}" for name, message in faults),
                remedy="Start the embedded stack with `supermerge up`, or set "
                f"{', '.join(fields) or 'SUPERMERGE_* variables'}.",
            ) from None

    def family_names(self) -> tuple[str, ...]:
        """The families there are: one file each."""
        return tuple(sorted(path.stem for path in self.families_dir.glob("*.yaml")))

    @property
    def mlflow_login(self) -> tuple[str, str] | None:
        """Name and password for MLflow's REST interface, where it asks for them."""
        if self.mlflow_username is None or self.mlflow_password is None:
            return None
        return self.mlflow_username, self.mlflow_password.get_secret_value()

    @property
    def prefect_login(self) -> tuple[str, str] | None:
        """Name and password for Prefect's REST interface, where it asks for them."""
        if self.prefect_auth is None:
            return None
        name, _, password = self.prefect_auth.get_secret_value().partition(":")
        return name, password

    def variables(self, without: Collection[str] = ()) -> dict[str, str]:
        """The SUPERMERGE_* variables that give another process these settings, but for some."""
        values = self.model_dump(mode="json", exclude_none=True, context={"reveal": True})
        return {
            _variable(name): str(value) for name, value in values.items() if name not in without
        }

    def environment(self) -> dict[str, str]:
        """The variables by which clients of MLflow, S3 and Prefect find and open the servers."""
        secrets = {
            "MLFLOW_TRACKING_PASSWORD": self.mlflow_password,
            "PREFECT_API_AUTH_STRING": self.prefect_auth,
            "AWS_ACCESS_KEY_ID": self.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3_secret_key,
        }
        lazy_checksums = "when_required" if self.s3_checksum == "none" else None
        plain = {
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "MLFLOW_TRACKING_USERNAME": self.mlflow_username,
            "MLFLOW_S3_ENDPOINT_URL": self.s3_endpoint,
            "AWS_ENDPOINT_URL_S3": self.s3_endpoint,
            "AWS_DEFAULT_REGION": self.s3_region,
            "AWS_REQUEST_CHECKSUM_CALCULATION": lazy_checksums,
            "AWS_RESPONSE_CHECKSUM_VALIDATION": lazy_checksums,
            "PREFECT_API_URL": self.prefect_api,
            # A profile in the user's home could name another server and its key.
            "PREFECT_HOME": str(self.state_dir / "prefect"),
            **past_proxies(os.environ),
            **(JSON_LOGS if self.log_format == "json" else {}),
        }
        revealed = {name: value.get_secret_value() for name, value in secrets.items() if value}
        given = {name: value for name, value in plain.items() if value}
        return CLIENT_DEFAULTS | given | revealed

    def apply(self) -> None:
        """Puts `environment()` into os.environ; call it before mlflow or prefect are imported.

        A token or a profile in the shell would be sent along with the keys of these settings, or take
        their place; where there are such keys, it is taken out.
        """
        for name in self.disturbing():
            del os.environ[name]
        os.environ.update(self.environment())

    def disturbing(self) -> list[str]:
        """Variables of the shell that do not go with these settings' own keys for S3."""
        return [name for name in OTHER_KEYS if self.s3_access_key and name in os.environ]


def default_state_dir() -> Path:
    """SUPERMERGE_STATE_DIR, else `.supermerge` in the checkout or the present folder."""
    return Path(os.environ.get(PREFIX + "STATE_DIR") or PROJECT / ".supermerge")


def default_families_dir() -> Path:
    """`families` in the checkout or the present folder; without one, the families of the demo."""
    own = PROJECT / "families"
    return own if own.is_dir() else CODE / "infra" / "families"


def deployments_file() -> Path:
    """`prefect.yaml` in the checkout or the present folder; without one, that of the package."""
    own = PROJECT / "prefect.yaml"
    return own if own.is_file() else CODE / "infra" / "prefect.yaml"


def is_given(field: str) -> bool:
    """Whether the environment has a variable for this setting."""
    return _variable(field) in os.environ


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _refuse_unknown_variables(settings: type[Settings]) -> None:
    known = set(map(_variable, settings.model_fields))
    ours = (n for n in os.environ if n.startswith(PREFIX) and not n.startswith(_FOR_TESTS))
    unknown = sorted(name for name in ours if name not in known)
    if unknown:
        raise InvalidInput(
            where="environment",
            expected=f"only {', '.join(sorted(known))}",
            found=", ".join(unknown),
            remedy="Correct the name or unset it.",
        )


def families_dir() -> Path:
    """Where families are, also where no server is set up: SUPERMERGE_FAMILIES_DIR, or as by default."""
    return Path(os.environ.get(PREFIX + "FAMILIES_DIR") or default_families_dir())
