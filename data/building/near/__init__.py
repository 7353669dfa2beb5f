"""Documents that are nearly the same: signatures, pairs, clusters, and which of a cluster are left out."""
