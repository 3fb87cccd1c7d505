"""Where the control API listens: loopback or TLS, few connections, none idle for long."""
