"""Attacks on the service as users start it: what crowds and attackers do, and what is left for everybody else."""
