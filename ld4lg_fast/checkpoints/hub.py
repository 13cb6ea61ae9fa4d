"""Downloads and uploads runs on the Hugging Face hub."""

import re
from pathlib import Path
from typing import Literal

from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.errors import CheckpointError

# Files that loading reads: no code, pickles or pictures. The stars also match folders.
FILES = (
    *(f"{folder}/*{suffix}" for folder in fingerprint.FOLDERS for suffix in fingerprint.SUFFIXES),
    *fingerprint.SINGLE_FILES,
    fingerprint.FILE,
    "config.yaml",
)


def looks_like_hub_name(name: str) -> bool:
    """Whether ``owner/name`` is a repository's name: there is no local folder ``owner``."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)) and not Path(name).parent.exists()


def repository_status(
    name: str, kind: Literal["model", "dataset"] = "model", revision: str | None = None
) -> Literal["found", "missing", "unreachable"]:
    """Looks a repository up in one short request, so that an unreachable hub costs seconds instead of minutes."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    api = huggingface_hub.HfApi()
    try:
        (api.model_info if kind == "model" else api.dataset_info)(name, revision=revision, timeout=10)
    except (RepositoryNotFoundError, HFValidationError):
        return "missing"
    except HfHubHTTPError:
        return "found"  # the hub answers
    except Exception:  # the class depends on the HTTP library
        return "unreachable"
    return "found"


def download(name: str, revision: str | None = None) -> Path:
    """Folder of a run that is downloaded from the hub, or from its cache if the hub is unreachable.

    Raises:
        CheckpointError: the repository does not exist, or the hub is unreachable and no copy is cached.
    """
    import huggingface_hub

    status = repository_status(name, revision=revision)
    if status == "missing":
        raise CheckpointError(
            f"There is neither a folder {name} nor a model of that name on the hub, or it is private: check the "
            "name, or log in with hf auth login."
        )
    reachable = status == "found"
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(FILES), local_files_only=not reachable
        )
    except Exception as error:  # of the hub, the network or the disk
        why = "cannot be downloaded" if reachable else "is no folder, and the hub does not answer"
        raise CheckpointError(f"{name} {why}; train a run with ld4lg train, or give its folder.") from error
    return Path(folder)


def upload(folder: Path | str, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Uploads a folder as one commit; returns the repository's address.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: the hub refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload with ld4lg-fast")
    return str(url)
