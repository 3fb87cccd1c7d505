"""HTTP/2 to clients (RFC 9113): frames and states are the h2 library's; what a request may be, and how much, is decided here."""
