"""`python -m wharfinger_cli`."""

from .main import app

app()
