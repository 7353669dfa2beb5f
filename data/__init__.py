"""Datasets: text files become verified token shards, and these a deterministic stream of batches.

- ``shards.build`` makes a dataset, in steps that ``building`` implements; ``manifest`` describes it;
- ``stream.ShardStream`` gives batches for pretraining, in the order of ``order.GlobalOrder``;
  ``stream.MixedStream`` mixes several datasets, by the ``schedule`` of a ``mixture``;
- ``tasks`` reads examples for fine-tuning.
"""

import os

# Keeps webdataset from running commands and reading pickles; it must be set before webdataset is imported.
os.environ.setdefault("WDS_SECURE", "1")
