"""The steps of building a data folder from text, as tasks that any number of workers can share.

In order: ``scan`` reads the sources, ``near`` finds near duplicates, ``train`` makes the tokenizer,
``encode`` tokenizes, and ``write`` writes shards. ``steps`` runs them.
"""
