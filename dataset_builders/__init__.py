"""SynCPR, ITCPR and their relatives for `datasets.load_dataset`.

    import fafa
    from datasets import load_dataset

    load_dataset("SynCPR", data_dir=root)              # split train
    load_dataset("ITCPR", "query", data_dir=root)      # split test
    load_dataset("ITCPR", "gallery", data_dir=root)    # split test
    load_dataset("CIRHS", data_dir=root)               # split train: what `fafa.synthesis` makes of its recipes for
    load_dataset("SynTBPR", data_dir=root)             # everyday scenes, and for text-image pairs of people

Without `data_dir` the authors' repository on the Hub is fetched and unpacked (another with `repo_id=`, `revision=`).
An annotation file is one shard: it is read and checked by one process (half a minute for SynCPR's 1.15 million records,
once). For a stream that several workers share, cut what was loaded: `dataset.to_iterable_dataset(num_shards=64)`.

    python -m fafa.dataset_builders.prepare_itcpr      # arranges Celeb-reID, LaST and PRCC for ITCPR
    python -m fafa.dataset_builders.verify ROOT        # checks every record and opens every image
    python -m fafa.dataset_builders.export NAME        # Parquet or WebDataset with the images in it
"""

import functools

# Name for load_dataset -> module of the builder, and the last folder of its cache: raise it when columns change.
BUILDERS = {
    "SynCPR": (f"{__name__}.syncpr", "1"),
    "ITCPR": (f"{__name__}.itcpr", "1"),
    "CIRHS": (f"{__name__}.cirhs", "1"),
    "SynTBPR": (f"{__name__}.syntbpr", "1"),
}


def register_builders() -> None:
    """Make `datasets.load_dataset` know the names in `BUILDERS`. Calling it again changes nothing.

    `datasets` has no plug-ins (5.2). Every way from a name to its builder leads through `dataset_module_factory`, so
    that is wrapped for our names; this also keeps the stock code from listing millions of image files in `data_dir`.
    """
    import datasets.inspect
    import datasets.load

    stock = datasets.load.dataset_module_factory
    if hasattr(stock, "fafa_builders"):
        return

    @functools.wraps(stock)
    def dataset_module_factory(path, revision=None, *args, data_files=None, **kwargs):
        if path not in BUILDERS:
            return stock(path, revision, *args, data_files=data_files, **kwargs)
        if data_files is not None:
            raise ValueError(f"{path} takes data_dir=, a folder of annotations and images; no data_files=")
        module, schema = BUILDERS[path]
        return datasets.load.DatasetModule(module, schema, {"dataset_name": path, "revision": revision})

    dataset_module_factory.fafa_builders = BUILDERS
    datasets.load.dataset_module_factory = dataset_module_factory
    datasets.inspect.dataset_module_factory = dataset_module_factory
