"""From a listening socket to a connection that speaks HTTP: accepted, past TLS and PROXY header, and watched over."""
