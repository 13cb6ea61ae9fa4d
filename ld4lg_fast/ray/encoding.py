"""A corpus to shards of latents, on many machines, as the second stage of training reads them.

Letters: B texts, N latents, d latent width.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ld4lg_fast import errors
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.checkpoints.stored_config import load_with_overrides
from ld4lg_fast.data import TokenizedTexts, load_from_config, tokenize_texts
from ld4lg_fast.data.corpus_cache import alone
from ld4lg_fast.engine.gpu_settings import gpu_settings
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.options.checks import checked_path
from ld4lg_fast.ray.workers import check_workers, error_in, mapped, worker_device
from ld4lg_fast.training.autoencoder_model import trusts_code
from ld4lg_fast.training.latent_cache import encode_latents
from ld4lg_fast.training.latent_shards import (
    CacheShards,
    cache_folder,
    fingerprint,
    latent_shards,
    latents_dtype,
)
from ld4lg_fast.training.run_setup import check_config
from ld4lg_fast.training.shards import remove_others
from ld4lg_fast.training.train_section import read_options

NAME = "latents"


class LatentEncoder:
    """A stage of Ray Data that encodes whole shards and writes them; see `encode_corpus`.

    Rows: ``shard`` its number, ``ids`` the token ids of its texts one after the other, ``lengths`` (B,) of the texts.
    Result: ``shard``, and ``kind`` and ``error`` of what a user can mend, empty without.
    """

    def __init__(self, autoencoder: Path, shards: CacheShards, trust_remote_code: bool) -> None:
        self.device, self.shards = worker_device(), shards
        self.autoencoder = LanguageAutoencoder.load(autoencoder, trust_remote_code).to(self.device)

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        found = [
            error_in(partial(self._encode, int(number), ids, lengths))
            for number, ids, lengths in zip(rows["shard"], rows["ids"], rows["lengths"], strict=True)
        ]
        return {
            "shard": rows["shard"],
            "kind": ["" if error is None else type(error).__name__ for error in found],
            "error": ["" if error is None else str(error) for error in found],
        }

    @torch.no_grad()
    def _encode(self, number: int, ids: np.ndarray, lengths: np.ndarray) -> None:
        tokens = TokenizedTexts(ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), 0)
        with gpu_settings(self.device):
            latents = encode_latents(self.autoencoder, tokens, self.device, range(len(tokens)))
        self.shards.write(number, latents)


def encode_corpus(
    run: Path | str,
    files: Path | str | Sequence[Path | str] | None = None,
    out: Path | str | None = None,
    *,
    workers: int,
    num_cpus: float = 1,
    num_gpus: float = 0,
    overrides: Sequence[str] = (),
) -> Path:
    """Encodes the training texts of a corpus by a run's finished autoencoder; returns the folder of the shards.

    >>> encode_corpus("outputs/foo", ["part-0.parquet", "part-1.parquet"], workers=8)

    ``ld4lg train train.stage=diffusion`` with the same corpus then encodes nothing. Each shard has the same batches
    whoever encodes it, so that the shards have the same bits for any number of workers of one kind. A worker that is
    lost is started again, and its shard is encoded again. Shards that are there already are not computed again. All
    machines must see the run and ``out`` under the same paths.

    Args:
        run: a run directory of which the first stage is finished.
        files: of the training texts, Parquet or another format that training reads, in the place of
            ``dataset.files.train``; None: the corpus that the run was trained on.
        out: None: where training looks for them.
        workers, num_cpus, num_gpus: how many workers, and the cores and GPUs of each.
        overrides: further options as of ``ld4lg train``, such as ``dataset.text_column=body``.

    Raises:
        ConfigError: an option that cannot work, or Ray is not installed.
        CheckpointError: the autoencoder is not finished; ``out`` has other files, or latents of other texts or of
            another autoencoder; or it cannot be written to.
        DataError: the corpus cannot be read, or has no such column.
    """
    check_workers("ld4lg_fast.ray.encode_corpus", workers, num_cpus, num_gpus)
    place = RunDirectory(checked_path("run", run).resolve())
    if not place.has_autoencoder:
        raise CheckpointError(
            f"{place.path} has no finished autoencoder; train it with ld4lg train train.stage=autoencoder."
        )
    config = _config(place, files, overrides)
    texts = load_from_config(config["dataset"]).train.texts
    autoencoder = LanguageAutoencoder.load(place.autoencoder, trusts_code(config))
    with ExitStack() as stack:
        stack.enter_context(RunLock(place.path))
        tokens = tokenize_texts(texts, autoencoder.tokenizer, autoencoder.max_len, place.cache)
        options, wanted = read_options(config["train"]), fingerprint(place.autoencoder, tokens)
        dtype, shares = latents_dtype(autoencoder, options.latents_dtype), options.share_latents
        folder = cache_folder(place, NAME, dtype, wanted, shares) if out is None else Path(out)
        shards = latent_shards(autoencoder, len(tokens), dtype, folder.resolve(), wanted)
        del autoencoder
        _check_folder(shards)
        if out is None and shares:
            stack.enter_context(alone(shards.directory))
        stage = {"autoencoder": place.autoencoder, "shards": shards, "trust_remote_code": trusts_code(config)}
        _encode(shards, tokens, stage, workers=workers, num_cpus=num_cpus, num_gpus=num_gpus)
    return shards.directory


def _config(run: RunDirectory, files: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """The run's config with the corpus that is to be encoded.

    Raises:
        ConfigError: an invalid option, or a corpus of documents or without files.
    """
    try:
        stored, _ = load_with_overrides(run.config, overrides)
        config: Any = OmegaConf.to_container(stored, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(
            f"overrides={list(overrides)} cannot be read ({str(error).splitlines()[0]}); give them as to ld4lg train, "
            'as in ["dataset.text_column=body"].'
        ) from error
    corpus = config["dataset"]
    if files is not None:
        if "files" not in corpus:
            raise ConfigError(
                f"files is {files}, but {run.path} was trained with dataset={corpus['name']}, which has no files; "
                "leave files out, or train the autoencoder with dataset=custom."
            )
        paths = [files] if isinstance(files, str | Path) else list(files)
        known = corpus["files"] if isinstance(corpus["files"], Mapping) else {}
        corpus["files"] = {**known, "train": [str(Path(path).resolve()) for path in paths]}
    check_config(config)
    if "context_blocks" in config["recipe"]:
        raise ConfigError(
            f"{run.path} has recipe=blocks, whose documents the second stage of training cuts and encodes itself; use "
            "encode_corpus for runs of single texts."
        )
    return config


def _check_folder(shards: CacheShards) -> None:
    """Checks that a folder is empty or has shards of the same texts and autoencoder.

    Raises:
        CheckpointError: the sentence names the folder.
    """
    folder = shards.directory
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"out={folder} is a file; name a folder.")
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        if path.name.startswith(".") and path.suffix == ".tmp":
            continue  # what a lost worker left
        number = int(path.stem) if path.suffix == ".safetensors" and path.stem.isdecimal() else None
        if number is None:
            raise CheckpointError(
                f"out={folder} has {path.name}, which is no shard of latents; name another folder."
            )
        if number >= len(shards) or shards.fault(number) == "out of date":
            raise CheckpointError(
                f"out={folder} has latents of other texts, of another autoencoder or in another dtype; delete it, or "
                "name another folder."
            )


def _encode(shards: CacheShards, tokens: TokenizedTexts, stage: Mapping[str, Any], **resources: Any) -> None:
    """Has the missing shards encoded by workers.

    Raises:
        LD4LGError: the first error of a worker that a user can mend.
        CheckpointError: workers wrote shards that are not seen here.
    """
    import ray.data

    lacking = shards.lacking(range(len(shards)))
    if lacking:
        rows = ray.data.from_items(
            [{"shard": number, **_tokens_of(tokens, shards.texts[number])} for number in lacking],
            override_num_blocks=len(lacking),
        )
        for row in mapped(rows, LatentEncoder, stage, batch_size=1, **resources).iter_rows():
            if row["error"]:
                raise getattr(errors, row["kind"], errors.LD4LGError)(row["error"])
    if shards.lacking(lacking):
        raise CheckpointError(
            f"The workers' shards are not in {shards.directory} here; give out=FOLDER on a file system that all "
            "machines share."
        )
    remove_others(shards.directory, len(shards))


def _tokens_of(tokens: TokenizedTexts, texts: range) -> dict[str, np.ndarray]:
    rows = [np.asarray(tokens[text], dtype=np.int32) for text in texts]
    return {"ids": np.concatenate(rows), "lengths": tokens.lengths[texts.start : texts.stop]}
