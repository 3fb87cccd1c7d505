"""Who gets the CPU, decided in virtual time: what `scheduler` is made of. No I/O, no clock."""
