"""Model folders by name: a folder on disk, or a repository of the Hugging Face hub."""

import re
from pathlib import Path

from vidjax.errors import WeightsError

WANTED = ("*.json", "*.safetensors", "*.model")
"""What is downloaded of a repository; other formats of the same weights are left there."""


def find(name: str, revision: str | None = None) -> Path:
    """The folder called ``name``, or the local copy of the hub repository of that name.

    Downloads resume, and are not repeated; ``HF_HUB_OFFLINE=1`` keeps to what is there.

    Raises:
      WeightsError: neither exists, or the hub cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise WeightsError(f"no model folder {name!r}: give a folder in the published layout or a hub id 'owner/name'")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(WANTED)))
    except LocalEntryNotFoundError as error:
        raise WeightsError(f"{name!r} is no folder here, and the hub cannot be reached to look for it") from error
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{name!r} is no folder here, and the hub does not give it: {reason}") from error
    except OSError as error:
        raise WeightsError(f"{name!r} is no folder here, and the hub cannot be reached: {error}") from error
