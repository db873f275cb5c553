"""A store with its credentials, saved in Prefect."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from blocks.secrets.reading import secret
from blocks.stores.access import Access
from trainer.config.store_urls import StoreUrl, parse_store_url


class StoreBlock(Block):
    """A bucket and the key to it, for jobs that name it as block://NAME."""

    _block_type_name = "Object Store"
    _block_type_slug = "training-orchestrator-store"

    url: str = Field(description="s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH.")
    endpoint: str = Field(
        default="",
        description="Base URL of a service that is not Amazon's, Google's or Microsoft's.",
    )
    region: str = Field(default="", description="S3: the bucket's region.")
    key_id: str = Field(
        default="", description="S3: the access key's id. Azure: the account's name."
    )
    secret: SecretStr | None = Field(
        default=None,
        description="S3: the secret access key. Google: a service account's key, as JSON. Azure: the "
        "account's key, or a shared access signature; or where it is kept, such as "
        "secret://aws/NAME. Empty: by the environment.",
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if parse_store_url(value).scheme == "block":
            raise ValueError(f"{value!r}: a saved block cannot name another one")
        return value

    def place(self) -> tuple[StoreUrl, Access]:
        """Return where it is, and what it is opened with; it may block, where a vault has the secret.

        Raises:
            OrchestratorError: the secret cannot be read where it is kept.
        """
        given = self.secret.get_secret_value() if self.secret else ""
        kept = secret(f"block://{self._block_document_name or ''}: secret", given) if given else ""
        access = Access(endpoint=self.endpoint, region=self.region, key_id=self.key_id, secret=kept)
        return parse_store_url(self.url), access
