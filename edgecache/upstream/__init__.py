"""Origins: which is asked, over which connection, how often and for how long. No caching; called through `source.Source`."""
