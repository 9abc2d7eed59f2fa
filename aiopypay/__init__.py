"""aiopypay: a self-hosted payments backend that goes on while its database is down."""

__version__ = "0.1.0"
