"""From a pushed bundle to a version that serves: verified, registered, given its part of the traffic, published."""
