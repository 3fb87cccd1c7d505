"""What is pushed: an archive, the files in it, and what its manifest says of them."""
