"""The features of any images by a trained run, in a table."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import numpy as np

from ddm.data import open_heap
from ddm.data.base import ImageDataset
from ddm.embed import embed
from ddm.errors import DdmError
from ddm.export import load_encoder
from ddm.files import atomic
from ddm.messages import tell
from ddm.run_folder import RunFolder
from ddm.whitening import Whitening

Portion = Literal["all", "variant", "invariant", "whitened"]
ROWS = 4096  # of a row group


def embed_images(
    run: Path | str,
    images: str,
    output: Path,
    portion: Portion = "all",
    strict: bool = False,
    overwrite: bool = False,
) -> ImageDataset:
    """Embed images that the run need never have seen, and write a Parquet table of their features.

    Args:
        run: the run folder.
        images: a folder of any depth, a manifest, or what ``ddm pretrain`` knows by name.
        output: the table, .parquet: ``path``, as the images' source names it, and ``features``, a
            list of D float32 numbers a row.
        portion: ``"all"`` features, the ``"variant"`` or the ``"invariant"`` portion, or all
            ``"whitened"``, for search across domains (:mod:`ddm.whitening`).
        strict: refuse unreadable images instead of leaving them out.
        overwrite: replace a table that is there.

    Returns:
        The images, in the order of the table; those left out are its ``skipped``.

    Raises:
        DdmError: an unfinished run, unusable images, a table of another kind or one that is there
            already, whitening that ``ddm evaluate`` has not fitted yet.
    """
    # Slow to import.
    import pyarrow as pa
    import pyarrow.parquet as pq

    if portion not in get_args(Portion):
        raise DdmError(
            f"--portion {portion} is unknown; choose one of {', '.join(get_args(Portion))}"
        )
    if output.suffix.lower() != ".parquet" or output.is_dir():
        raise DdmError(f"--output {output}: the table is a file whose name ends in .parquet")
    if output.exists() and Path(images).exists() and output.samefile(images):
        raise DdmError(f"--output {output} is the manifest itself; choose another name")
    if output.exists() and not overwrite:
        raise DdmError(f"{output} exists; choose another --output, or give --overwrite")
    folder, _ = RunFolder.open(run)
    encoder, spec, variant_dim = load_encoder(folder.encoder_file)
    whitening = None
    if portion == "whitened":
        if not folder.whitening_file.exists():
            raise DdmError(
                f"{folder.whitening_file} is missing: `ddm evaluate {folder.path}` fits it"
            )
        whitening = Whitening.load(folder.whitening_file)
        if whitening.doubt:
            tell(whitening.doubt)
    dataset = open_heap(images, spec.image_size, spec.channels, strict)
    columns = {"variant": slice(None, variant_dim), "invariant": slice(variant_dim, None)}
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=".embed-") as temporary:
        store = Path(temporary) / "features.npy"
        features = embed(encoder, dataset, spec.image_size, store, str(folder.path))
        with atomic(output) as part:
            writer = None
            for start in range(0, len(features), ROWS):
                chosen = features[start : start + ROWS, columns.get(portion, slice(None))]
                rows = chosen if whitening is None else whitening(chosen)
                numbers = pa.array(np.asarray(rows, np.float32).ravel())
                column = pa.FixedSizeListArray.from_arrays(numbers, rows.shape[1])
                keys = list(dataset.keys[start : start + ROWS])
                table = pa.table({"path": keys, "features": column})
                writer = writer or pq.ParquetWriter(part, table.schema)
                writer.write_table(table)
            assert writer is not None  # A source without images was refused.
            writer.close()
    return dataset
