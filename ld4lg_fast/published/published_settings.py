"""Reads the settings of published checkpoints, with checks of names and types."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ld4lg_fast.checkpoints.files import read_json
from ld4lg_fast.checkpoints.run_config import read_run_config
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.option_checks import shown

_ABSENT = object()


class Settings:
    """A published configuration (args.json or Hydra's config.yaml).

    Interpolations may refer to other entries of the file only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise CheckpointError(
                f"{path} does not exist; a checkpoint can only be imported with the settings that it was "
                "trained with, so copy that file from where it was trained."
            )
        self._content: Mapping[str, Any] | DictConfig
        if path.suffix == ".json":
            self._content = read_json(path, "a published run")
        else:
            content = OmegaConf.to_container(read_run_config(path), resolve=False)
            self._content = OmegaConf.create(_without_resolvers(content))

    def _select(self, name: str) -> Any:
        if not isinstance(self._content, DictConfig):
            return self._content.get(name, _ABSENT)
        return OmegaConf.select(self._content, name, default=_ABSENT, throw_on_missing=True)

    def __contains__(self, name: str) -> bool:
        try:
            return self._select(name) is not _ABSENT
        except OmegaConfBaseException:
            return True

    def take(self, name: str, *kinds: type | None) -> Any:
        """The entry at a dotted path; ``kinds`` are the allowed types, None for null.

        Raises:
            CheckpointError: the entry is missing or has another type.
        """
        try:
            value = self._select(name)
        except (OmegaConfBaseException, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{self.path}: the entry {name} cannot be read ({reason}); values that stand elsewhere, as in "
                "the environment, are not followed."
            ) from error
        if value is _ABSENT:
            raise CheckpointError(
                f"{self.path} has no entry {name}; it is of another version or of another system."
            )
        if value is None and None in kinds:
            return None
        types = tuple(kind for kind in kinds if kind is not None)
        if float in types:
            types += (int,)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join("null" if kind is None else kind.__name__ for kind in kinds)
            raise CheckpointError(f"{self.path} has {name}={shown(value)}, where {wanted} is expected.")
        if isinstance(value, int | float) and not abs(value) < LARGEST:
            raise CheckpointError(f"{self.path} has {name}={shown(value)}, which is no finite number.")
        return value

    def agree(self, found: Mapping[str, Any], weights: Path) -> None:
        """Checks that entries equal the values found in the weights.

        Raises:
            CheckpointError: names the first that differs.
        """
        for name, value in found.items():
            said = self.take(name, type(value))
            if said != value:
                raise CheckpointError(
                    f"{self.path} says {name}={said} but {weights} was made with {value}; "
                    "the two files belong to different runs."
                )


LARGEST = 2.0**63


def _without_resolvers(content: Any) -> Any:
    """The content with values that call a resolver, as ``${oc.env:HOME}``, replaced by missing values."""
    if isinstance(content, dict):
        return {key: _without_resolvers(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_resolvers(value) for value in content]
    asks = isinstance(content, str) and ":" in content.partition("${")[2]
    return MISSING if asks else content
