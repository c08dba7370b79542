"""Several processes: who is there, and policies that are cut over them."""
