"""What VMs cost on this machine, and how the monitor shares it out: measured, never assumed. `python -m sandbox bench` prints it.

`machine.py` runs VMs in this process, without workers or jail; `crowd.py`, `fairness.py`, `neighbour.py` and `roundtrip.py` go
through the real monitor and its jailed workers; `peers.py` asks others for the same page; `figures.py` puts them together;
`plots.py` draws.
"""
