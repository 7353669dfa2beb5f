"""Near duplicates: signatures of documents, similar pairs, and clusters, of which one document is kept."""
