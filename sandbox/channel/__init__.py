"""What monitor, workers and zygote say to each other, and how it gets across."""
