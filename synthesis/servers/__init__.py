"""What asking any server has in common: where it is, which key it gets, how its answers and its errors are taken."""
