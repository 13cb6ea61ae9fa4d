"""Runs on the Hugging Face hub: fetched, and published with a model card that is filled in from the run."""

import re
from pathlib import Path

from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.errors import CheckpointError

# What loading reads, and no code, pickle or picture beside it; the patterns' stars stand for folders, too.
FILES = (
    *(f"{folder}/*{suffix}" for folder in fingerprint.FOLDERS for suffix in fingerprint.SUFFIXES),
    *fingerprint.SINGLE_FILES,
    fingerprint.FILE,
    "config.yaml",
)


def looks_like_hub_name(name: str) -> bool:
    """Whether ``owner/name`` can only mean a repository: there is no local folder ``owner``."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)) and not Path(name).parent.exists()


def download(name: str, revision: str | None = None) -> Path:
    """The local copy of a run on the hub, from its cache where the hub does not answer.

    Raises:
        CheckpointError: the hub has no such repository, or does not answer and no copy is cached.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        huggingface_hub.HfApi().model_info(name, revision=revision, timeout=10)
        reachable = True
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"There is neither a folder {name} nor a model of that name on the hub, or it is private: check the "
            "name, or log in with hf auth login."
        ) from error
    except HfHubHTTPError:
        reachable = True
    except Exception:  # no answer: the error's class is that of whichever HTTP library is used
        reachable = False
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(FILES), local_files_only=not reachable
        )
    except Exception as error:  # likewise
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
