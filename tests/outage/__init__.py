"""Outage tests: the database, the network or the service is taken away, and the ledger must hold all the same."""
