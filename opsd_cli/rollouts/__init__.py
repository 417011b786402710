"""A step's rollouts: requests, collecting, prefetching, importance weights, analyses."""
