"""Several processes that serve one address, and the one that leads them: monitor, control API and state are the leader's alone.

`edge` leads (`fleet`), `python -m edgecache.processes` serves (`serving`); they talk over a Unix stream each (`messages`).
"""
