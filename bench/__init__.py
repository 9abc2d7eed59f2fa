"""`./run.sh bench`: the service against the same payment in plain SQL and against bare aiohttp, in one run."""
