"""The HTTP/1.1 client: connections to origins, requests on them, and their responses."""
