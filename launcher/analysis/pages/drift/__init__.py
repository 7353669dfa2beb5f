"""What ``odeformer drift`` shows: the page of a ``drift.json``, and the same in words."""
